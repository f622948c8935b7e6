"""Loading: presets, derived sizes, overrides, pretrained sizes, places of mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjpllm.config import PRESETS, ConfigError, load_config
from pyjpllm.config.load import line_of
from pyjpllm.config.mistakes import ConfigError as SameError
from pyjpllm.config.mistakes import all_names, right_name
from pyjpllm.config.overrides import parse_overrides
from pyjpllm.config.schema import Config, ModelConfig
from pyjpllm.errors import UserError
from tests.config.builders import TEXT, write_project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_project(tmp_path)


def with_model(project: Path, model: str) -> Path:
    project.write_text(TEXT.replace('preset = "tiny"', model))
    return project


def test_a_file_with_a_preset(project: Path) -> None:
    config = load_config(project)
    assert config.model.preset == "tiny"
    assert {k: getattr(config.model, k) for k in PRESETS["tiny"]} == PRESETS["tiny"]
    assert [c.path for c in config.data.train] == ["tokens/web", "tokens/wiki"]
    assert config.data.train[1].weight == 1.0
    assert config.optimizer.lr == 1e-3
    assert config.train.device == "cpu"


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_valid_model(name: str) -> None:
    model = ModelConfig.model_validate({"preset": name, **PRESETS[name]})
    assert model.head_dim * model.num_heads == model.hidden_size
    assert model.num_heads % model.num_kv_heads == 0


def test_written_fields_win_over_the_preset(project: Path) -> None:
    config = load_config(project, ["model.num_layers=7", "model.tie_embeddings=false"])
    assert config.model.num_layers == 7
    assert config.model.tie_embeddings is False
    assert config.model.hidden_size == 128


def test_head_dim_follows_a_written_width(project: Path) -> None:
    assert load_config(project, ["model.hidden_size=256"]).model.head_dim == 64
    assert load_config(project, ["model.hidden_size=256", "model.head_dim=32"]).model.head_dim == 32
    assert load_config(project, ["model.num_heads=2"]).model.num_kv_heads == 2


def test_kv_heads_follow_where_the_preset_has_as_many(project: Path) -> None:
    config = load_config(project, ["model.preset=125m", "model.num_heads=6"])
    assert (config.model.num_kv_heads, config.model.head_dim) == (6, 128)


def test_sizes_without_a_preset(project: Path) -> None:
    with_model(project, "hidden_size = 64\nnum_layers = 2\nnum_heads = 4\nintermediate_size = 96")
    model = load_config(project).model
    assert (model.head_dim, model.num_kv_heads) == (16, 4)


def test_pretrained_sizes_fill_what_is_not_written(project: Path) -> None:
    asked: list[Path] = []

    def read(folder: Path) -> dict[str, object]:
        asked.append(folder)
        return {**PRESETS["25m"], "vocab_size": 32000, "rope_scaling": None, "init_from": "ignored"}

    with_model(project, 'init_from = "llama"\nmax_position = 8192')
    model = load_config(project, read_pretrained=read).model
    assert asked == [Path("llama")]
    assert (model.hidden_size, model.vocab_size, model.max_position) == (512, 32000, 8192)
    assert model.init_from == "llama"


def test_a_written_size_that_the_weights_do_not_have(project: Path) -> None:
    with_model(project, 'init_from = "llama"\nhidden_size = 64')
    with pytest.raises(ConfigError) as caught:
        load_config(project, read_pretrained=lambda _: PRESETS["25m"])
    assert caught.value.lines == (
        f"{project}:3: model.hidden_size = 64: the weights in model.init_from have 512; leave it out",
    )


def test_a_table_of_experts_beside_a_preset_or_weights(project: Path) -> None:
    """What is written wins, the rest is the preset's or the folder's."""
    with_model(project, 'preset = "tiny-moe"\nmoe.balance_loss = 0.0\nmoe.num_experts = 4')
    moe = load_config(project).model.moe
    assert moe is not None
    assert (moe.num_experts, moe.experts_per_token, moe.balance_loss) == (4, 2, 0.0)
    with_model(project, 'init_from = "llama"\nmoe.balance_loss = 0.5')
    moe = load_config(project, read_pretrained=lambda _: PRESETS["tiny-moe"]).model.moe
    assert moe is not None
    assert (moe.num_experts, moe.balance_loss) == (8, 0.5)
    with_model(project, 'init_from = "llama"\nmoe.num_experts = 4')
    with pytest.raises(ConfigError, match=r"model.moe.num_experts = 4: the weights in model.init_from have 8"):
        load_config(project, read_pretrained=lambda _: PRESETS["tiny-moe"])


def test_a_pretrained_folder_that_cannot_be_read(project: Path) -> None:
    def read(folder: Path) -> dict[str, object]:
        raise UserError(f"{folder}/config.json: model_type 'gpt2' is not supported")

    with_model(project, 'init_from = "llama"')
    with pytest.raises(ConfigError, match="model_type 'gpt2'") as caught:
        load_config(project, read_pretrained=read)
    assert len(caught.value.lines) == 1


def test_a_missing_pretrained_folder_is_not_read(project: Path) -> None:
    with_model(project, 'init_from = "lama"')
    with pytest.raises(ConfigError, match="did you mean 'llama'") as caught:
        load_config(project, read_pretrained=lambda _: pytest.fail("read"))
    assert len(caught.value.lines) == 1


def test_overrides_of_every_kind(project: Path) -> None:
    config = load_config(
        project,
        [
            "train.steps=1_000",
            "optimizer.lr = 5e-4",
            "precision.dtype=bf16",
            "parallel.sequence=true",
            "data.tokenizer=2024",
            "data.train.0.weight=3",
            "model.rope_scaling.kind=linear",
            "model.rope_scaling.factor=8",
            'log.sample_prompts=["昔々", "吾輩は猫である"]',
            "data.valid=[]",
            "train.eval_interval=0",
            "checkpoint={interval=5}",
        ],
    )
    assert config.train.steps == 1000
    assert config.optimizer.lr == 5e-4
    assert config.precision.dtype == "bf16"
    assert config.parallel.sequence is True
    assert config.data.tokenizer == "2024"
    assert config.data.train[0].weight == 3.0
    assert config.model.rope_scaling is not None
    assert config.model.rope_scaling.factor == 8.0
    assert config.log.sample_prompts == ["昔々", "吾輩は猫である"]
    assert config.data.valid == []
    assert config.checkpoint.interval == 5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("tokens/a#1", "tokens/a#1"),
        ("a b", "a b"),
        ("1, 2", "1, 2"),
        ("昔々", "昔々"),
        ('"quoted"', "quoted"),
        ("", ""),
        ("a=b", "a=b"),
        ("1.5", "1.5"),
        ("true", "true"),
    ],
)
def test_a_text_may_go_without_quotes(text: str, value: str) -> None:
    given_overrides, lines = parse_overrides([f"data.tokenizer={text}"])
    assert not lines
    assert given_overrides["data", "tokenizer"][1] == value


def test_a_comment_does_not_cut_a_value() -> None:
    given_overrides, _ = parse_overrides(["train.steps=3 # three"])
    assert given_overrides["train", "steps"][1] == "3 # three"


def test_a_file_that_may_not_be_read(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ConfigError, match=r"cannot be read: Permission denied"):
        load_config(project)


def test_a_bom_and_windows_line_ends_are_read(project: Path) -> None:
    project.write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    assert load_config(project).train.steps == 100


def test_many_mistakes_are_cut(project: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(project, [f"train.nothing_{i}=1" for i in range(30)])
    assert len(caught.value.lines) == ConfigError.LIMIT + 1
    assert caught.value.lines[-1] == "and 20 more mistakes"
    assert SameError is ConfigError


def test_mistakes_come_in_the_order_of_the_file(project: Path) -> None:
    text = TEXT.replace("steps = 100", "steps = -1").replace("lr = 1e-3", "lr = 0").replace("= 128", "= 0")
    project.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(project, ["log.interval=0"])
    lines = caught.value.lines
    assert lines[0].startswith("override 'log.interval=0'")
    numbers = [int(line.split(":")[1]) for line in lines[1:]]
    assert numbers == sorted(numbers)
    assert len(numbers) == 3


def test_lines_of_fields() -> None:
    text = '[model]\npreset = "x"\n[model.rope_scaling]\nkind = "a"\n\n[train]\n"steps" = 3\n[data]\ntrain = [\n1]\n'
    assert line_of(text, ("model", "preset")) == 2
    assert line_of(text, ("model", "rope_scaling", "kind")) == 4
    assert line_of(text, ("train", "steps")) == 7
    assert line_of(text, ("data", "train", 0, "path")) == 9
    assert line_of(text, ("log", "interval")) is None
    assert line_of("train.steps = 3\n", ("train", "steps")) == 1


@settings(deadline=None)
@given(st.sampled_from(all_names()), st.data())
def test_one_wrong_letter_finds_the_field(name: str, data: st.DataObject) -> None:
    section, key = name.split(".", 1)
    place = data.draw(st.integers(0, len(key) - 1))
    letter = data.draw(st.sampled_from("qxz"))
    wrong = key[:place] + letter + key[place + 1 :]
    found = right_name((section, *wrong.split("."))) if len(key) >= 5 and "." not in wrong else name
    assert found is not None
    assert found.split(".")[0] == section or found.endswith("." + key)


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="=")), st.text(st.characters(codec="utf-8")))
def test_no_override_crashes(name: str, value: str) -> None:
    parse_overrides([f"{name}={value}", name])


@settings(deadline=None)
@given(st.integers(1, 10**9), st.floats(1e-9, 1e3), st.booleans())
def test_numbers_and_flags_come_through(steps: int, lr: float, flag: bool) -> None:
    overrides, lines = parse_overrides(
        [f"train.steps={steps}", f"optimizer.lr={lr!r}", f"log.tensorboard={str(flag).lower()}"]
    )
    assert not lines
    assert [value for _, value in overrides.values()] == [steps, lr, flag]


def test_the_schema_is_fully_described() -> None:
    for name in all_names():
        *parents, last = name.split(".")
        table: object = Config
        for parent in parents:
            fields = table.model_fields  # type: ignore[attr-defined]
            annotation = fields[parent].annotation
            table = next((a for a in getattr(annotation, "__args__", ()) if hasattr(a, "model_fields")), annotation)
        assert table.model_fields[last].description, name  # type: ignore[attr-defined]
