"""What the documents promise: links lead somewhere, commands and options exist, examples are valid configs."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest
import typer

from pyjpllm.cli.app import COMMANDS, build, run
from pyjpllm.config import check_config, load_config
from tests.data.corpora import make_tokenizer, write_corpus
from tests.scripts.conftest import REPO

DOCUMENTS = sorted(
    path for folder in (".", "docs", "examples") for path in (REPO / folder).glob("*.md") if path.is_file()
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
# Those with an input are pipelines; tests/corpus/test_corpus_config.py loads them.
CONFIGS = sorted(
    [
        *(path for path in (REPO / "examples").glob("*.toml") if "[input" not in path.read_text(encoding="utf-8")),
        REPO / "scripts" / "quickstart" / "config.toml",
    ]
)
BASE = {
    "hidden_size": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "intermediate_size": 128,
    "vocab_size": 512,
}  # fmt: skip


# Each form of parallelism has an example of its own: its ranks, and what it sets in [parallel].
FORMS: dict[str, tuple[int, dict[str, object]]] = {
    "data": (4, {"data": 4}),
    "zero": (4, {"zero": 1}),
    "tensor": (2, {"tensor": 2}),
    "sequence": (2, {"tensor": 2, "sequence": True}),
    "long-context": (4, {"context": 4, "context_kind": "ring"}),
    "ulysses": (4, {"context": 4, "context_kind": "ulysses"}),
    "experts": (2, {"expert": 2}),
    "pipeline": (2, {"pipeline": 2}),
}


def code_lines(path: Path) -> list[str]:
    """Lines of indented and fenced blocks, without what is behind a `#`."""
    fenced, lines = False, []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            lines.append(line.strip().split("  #")[0].strip())
    return lines


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPO)))
def test_relative_links_lead_somewhere(path: Path) -> None:
    targets = [link.partition("#")[0] for link in LINK.findall(path.read_text(encoding="utf-8")) if "://" not in link]
    missing = [target for target in targets if target and not (path.parent / target).exists()]
    assert not missing


def jpllm_commands(path: Path) -> list[list[str]]:
    """The words behind `jpllm` of every command in the code of a document."""
    found = []
    for line in code_lines(path):
        words = line.removeprefix("$ ").split()
        if "jpllm" in words and words[0] in ("jpllm", "mpirun", "srun", "mpiexec"):
            found.append(shlex.split(line)[shlex.split(line).index("jpllm") + 1 :])
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPO)))
def test_commands_and_options_exist(path: Path) -> None:
    for words in jpllm_commands(path):
        names = [word for word in words if not word.startswith("-")]
        if not names or names[0].isupper():
            continue
        assert names[0] in COMMANDS, words
        command = typer.main.get_command(build(words))
        for name in names:
            commands = getattr(command, "commands", None)
            if commands is None:
                break
            assert name in commands, words
            command = commands[name]
        allowed = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        options = {word.partition("=")[0] for word in words if word.startswith("-")}
        assert options - {"--help", "-h", "--debug", "--version"} <= allowed, words


def test_the_readme_has_the_two_commands() -> None:
    lines = code_lines(REPO / "README.md")
    for script in ("scripts/quickstart.sh", "scripts/test.sh"):
        assert script in lines
        assert os.access(REPO / script, os.X_OK)
    assert "scripts/test.sh" in (REPO / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_example_configs_are_valid(path: Path, tmp_path: Path) -> None:
    overrides = [f"model.init_from={tmp_path}"] if "init_from" in path.read_text(encoding="utf-8") else []
    config = load_config(path, overrides, read_pretrained=lambda folder: BASE)
    assert config.train.global_batch % config.train.micro_batch == 0
    assert config.schedule.warmup_steps < config.train.steps


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokens and the tokenizer that the examples name, small."""
    folder = tmp_path_factory.mktemp("examples")
    make_tokenizer(folder / "tokenizer")
    for name in ("train", "heldout"):
        (folder / "tokens").mkdir(exist_ok=True)
        write_corpus(folder / "tokens" / name, [9000] * 4, vocab_size=480)
    return folder


@pytest.mark.parametrize(("name", "ranks", "fields"), [(name, *rest) for name, rest in FORMS.items()])
def test_each_form_has_an_example_that_passes_its_check(
    name: str, ranks: int, fields: dict[str, object], run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = REPO / "examples" / f"{name}.toml"
    monkeypatch.chdir(run_folder)
    assert run(["train", str(path), "--check", "--ranks", str(ranks)]) == 0
    parallel = load_config(path).parallel
    assert {field: getattr(parallel, field) for field in fields} == fields
    assert (f"{name}.toml", ranks) in {(Path(config).name, count) for config, count, _ in in_comments(path)}
    assert f"(../examples/{name}.toml)" in (REPO / "docs" / "parallelism.md").read_text(encoding="utf-8")


def in_comments(path: Path) -> list[tuple[str, int, list[str]]]:
    """(config, ranks, overrides) of every `mpirun ... jpllm train` in a config's first comment."""
    lines = [line.removeprefix("#").split(" # ")[0] for line in path.read_text(encoding="utf-8").splitlines()]
    found = []
    for words in (shlex.split(line) for line in lines if "mpirun" in line and "jpllm train" in line):
        behind = words[words.index("train") + 1 :]
        found.append((behind[0], int(words[words.index("-n") + 1]), [word for word in behind[1:] if "=" in word]))
    return found


@pytest.mark.parametrize("path", [path for path in CONFIGS if in_comments(path)], ids=lambda path: path.name)
def test_commands_in_comments_fit_their_ranks(path: Path, tmp_path: Path) -> None:
    for _, ranks, words in in_comments(path):
        overrides = [word.replace("init_from=base", f"init_from={tmp_path}") for word in words]
        resolved = load_config(path, overrides, read_pretrained=lambda _folder: BASE)
        check_config(resolved, ranks, machine=False, files=False)


def test_every_dependency_is_explained() -> None:
    project = (REPO / "pyproject.toml").read_text(encoding="utf-8")
    block = project[project.index("dependencies = [") : project.index("[project.scripts]")]
    names = set(re.findall(r'"([A-Za-z0-9_-]+)(?:[><=!~].*?|;.*?)?"', block)) - {"pyjpllm"}
    explained = (REPO / "docs" / "dependencies.md").read_text(encoding="utf-8")
    assert names >= {"torch", "mpi4py", "ruff"}
    assert not [name for name in names if name not in explained]


def training_commands() -> list[tuple[str, int, list[str]]]:
    """(config, ranks, overrides) of every `jpllm train` of an example that the documents show."""
    found = []
    for path in DOCUMENTS:
        for line in code_lines(path):
            words = shlex.split(line) if "jpllm train examples/" in line else []
            if not words:
                continue
            behind = words[words.index("train") + 1 :]
            flag = "-n" if "-n" in words else "--ranks"
            ranks = int(words[words.index(flag) + 1]) if flag in words else 1
            found.append((behind[0], ranks, [word for word in behind[1:] if "=" in word]))
    return found


def test_the_documents_train_examples() -> None:
    assert len(training_commands()) >= 3


@pytest.mark.parametrize(("config", "ranks", "overrides"), training_commands())
def test_training_commands_of_the_documents_fit_their_ranks(config: str, ranks: int, overrides: list[str]) -> None:
    resolved = load_config(REPO / config, overrides, read_pretrained=lambda _folder: BASE)
    check_config(resolved, ranks, machine=False, files=False)
