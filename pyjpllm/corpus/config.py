"""The config of `jpllm corpus build`: what is read, what is written, and the stages between, in their order.

docs/corpus-configuration.md is generated from these classes and those of the stages; a field's docstring is its
entry there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from pyjpllm.config import mistakes as say
from pyjpllm.config.load import read_toml
from pyjpllm.config.mistakes import ConfigError, Mistake
from pyjpllm.config.schema import NonNegative, Positive, PositiveFloat, Section
from pyjpllm.corpus.decontamination import DecontaminationConfig
from pyjpllm.corpus.dedup.settings import (
    CopiesConfig,
    NearCopiesConfig,
    RepeatedSubstringsConfig,
    RepeatedUnitsConfig,
)
from pyjpllm.corpus.inputs import expand_inputs
from pyjpllm.corpus.intake import SUFFIXES, Span
from pyjpllm.corpus.intake.html import Extract
from pyjpllm.corpus.intake.pairs import JoinedBy, pair_spans
from pyjpllm.corpus.language import LanguageConfig
from pyjpllm.corpus.normalize import NormalizeConfig
from pyjpllm.corpus.personal import PersonalConfig
from pyjpllm.corpus.quality.stages import ClassifierConfig, PerplexityConfig
from pyjpllm.corpus.rules.config import EditConfig, RulesConfig
from pyjpllm.corpus.stage_config import GlobalStepConfig, StageConfig
from pyjpllm.errors import nearest

# Every kind of stage. One line each; the class lies in the stage's own file.
STAGES: tuple[type[StageConfig] | type[GlobalStepConfig], ...] = (
    LanguageConfig,
    NormalizeConfig,
    RulesConfig,
    EditConfig,
    CopiesConfig,
    NearCopiesConfig,
    RepeatedUnitsConfig,
    RepeatedSubstringsConfig,
    DecontaminationConfig,
    PersonalConfig,
    ClassifierConfig,
    PerplexityConfig,
)


class PairsConfig(Section):
    """`[input.pairs]`: a folder of HTML pages beside the folder of the pages that they are translations of."""

    translation: str
    """The folder of the pages whose text is wanted."""
    original: str
    """The folder of the pages that they were translated from, with the same names; `source` in the meta."""
    by: JoinedBy
    """What joins their segments: `id` of their elements (LibreOffice's help), or their `order`, where both pages have
    the same elements (manuals made by DocBook, such as GIMP's and Debian's)."""


class InputConfig(Section):
    """`[input]`: the files, and how much of one thing is too much."""

    paths: list[str] = Field(default=[])
    """Files, folders (all readable files below them, sorted) and patterns such as `crawl/**/*.warc.gz`: WARC, WET,
    HTML, JSON Lines, Parquet, plain text, `.mo`; each also as `.gz`, lines and text also as `.zst`."""
    pairs: list[PairsConfig] = Field(default=[])
    """Pages and their translations, segment by segment; beside `paths` or in their place."""
    extract: Extract = "main"
    """Of a page: the main content, without navigation, headers, footers and the like, or all that can be seen; or
    `trafilatura`: the main content as that library finds it, much more slowly."""
    max_document_mib: Positive = 16
    """A line, row, page or text larger than this is set aside; no more of it is held in memory."""
    max_ratio: PositiveFloat = 200.0
    """A packed file of which more than this many times its size comes out is set aside (from 64 MiB on)."""

    @model_validator(mode="after")
    def _something(self) -> InputConfig:
        if not self.paths and not self.pairs:
            raise ValueError('there is nothing to read; write paths = ["FOLDER"], or [[input.pairs]]')
        return self

    def files(self) -> list[Path]:
        """The files behind ``paths``. Raises UserError for what is not there."""
        return expand_inputs(self.paths, SUFFIXES) if self.paths else []

    def pair_spans(self) -> list[Span]:
        """The pages behind ``pairs``. Raises UserError for what is not there."""
        return [span for pair in self.pairs for span in pair_spans(pair.translation, pair.original, pair.by)]


class OutputConfig(Section):
    """`[output]`: the documents that are kept."""

    format: Literal["jsonl.zst", "jsonl.gz", "jsonl", "parquet", "tokens"] = "jsonl.zst"
    """Of the files in `documents/`. `tokens` writes none of them, but token files to train on, `tokens.bin` and
    `tokens.idx`, as `jpllm tokenizer encode` would of the documents."""
    tokenizer: str | None = None
    """For `tokens`: the folder that holds tokenizer.model, or that file."""
    file_mib: Positive = 256
    """A shard's documents go on in another file after this much text."""
    dropped: bool = False
    """Also write the documents that were dropped, with the stage and the rule that dropped them, to `dropped/`."""

    @model_validator(mode="after")
    def _tokens_need_a_tokenizer(self) -> OutputConfig:
        if self.format == "tokens" and self.tokenizer is None:
            raise ValueError('format = "tokens" needs a tokenizer; write tokenizer = "FOLDER"')
        if self.format != "tokens" and self.tokenizer is not None:
            raise ValueError(f'a tokenizer is for format = "tokens", this is "{self.format}": leave one out')
        return self

    @property
    def text_format(self) -> str:
        """The format of files of documents: that of `dropped/` where what is kept becomes tokens."""
        return "jsonl.zst" if self.format == "tokens" else self.format


class RunConfig(Section):
    """`[run]`: how the work is done; nothing here changes a byte of the output but `shard_mib`."""

    processes: NonNegative = 1
    """Processes of each rank; 0: one for each CPU that the rank may use."""
    shard_mib: Positive = 64
    """Inputs are cut into shards of about this size as they lie on the disk: files together, or parts of a large plain
    JSON Lines or Parquet file. A packed file is never cut."""


class CorpusConfig(Section):
    """A pipeline."""

    input: InputConfig
    output: OutputConfig = OutputConfig()
    run: RunConfig = RunConfig()
    stages: tuple[StageConfig | GlobalStepConfig, ...] = ()

    @model_validator(mode="after")
    def _a_folder_each(self) -> CorpusConfig:
        folders: dict[Path, str] = {}
        for stage in self.stages:
            if isinstance(stage, CopiesConfig | NearCopiesConfig) and stage.save is not None:
                folder, name = Path(stage.save).resolve(), stage_name(stage)
                if folder in folders:
                    raise ConfigError([f"the stages {folders[folder]} and {name} save into one folder, {stage.save!r}"])
                folders[folder] = name
        return self

    def as_dict(self) -> dict[str, Any]:
        """As plain values, defaults included."""
        return {
            "input": self.input.model_dump(),
            "output": self.output.model_dump(),
            "run": self.run.model_dump(),
            "stage": [stage.model_dump() for stage in self.stages],
        }


def stage_name(stage: StageConfig | GlobalStepConfig) -> str:
    """What the reports call a stage."""
    return stage.name or stage.kind


def kinds() -> dict[str, type[StageConfig] | type[GlobalStepConfig]]:
    """Every kind of stage by its name."""
    return {config.model_fields["kind"].annotation.__args__[0]: config for config in STAGES}  # type: ignore[union-attr]


_SECTIONS: Mapping[str, type[Section]] = {"input": InputConfig, "output": OutputConfig, "run": RunConfig}


def load_corpus_config(path: str | Path) -> CorpusConfig:
    """Read and check a pipeline's TOML file. Raises ``ConfigError`` with a line for each mistake."""
    source = Path(path)
    text, raw = read_toml(source)
    return _Loader(source, text, raw).load()


class _Loader:
    """Checks each table with its own class, so that every mistake is said in the words of that table."""

    def __init__(self, source: Path, text: str, raw: dict[str, Any]) -> None:
        self._source = source
        self._lines = text.splitlines()
        self._raw = raw
        self._found: list[str] = []

    def load(self) -> CorpusConfig:
        allowed = [*_SECTIONS, "stage"]
        for name in self._raw:
            if name not in allowed:
                match = nearest(name, allowed)
                hint = f"did you mean '[{match}]'?" if match else f"allowed: {', '.join(allowed)}"
                self._found.append(f"{self._where(name)}: [{name}]: no such section; {hint}")
        sections = {name: self._table(self._raw.get(name, {}), cls, name) for name, cls in _SECTIONS.items()}
        stages = self._stages()
        if self._found:
            raise ConfigError(self._found)
        return CorpusConfig.model_validate({**sections, "stages": tuple(stages)})

    def _stages(self) -> list[Section | None]:
        tables = self._raw.get("stage", [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self._found.append(f"{self._where('stage')}: stage: must be a list of tables; write [[stage]]")
            return []
        stages = [self._stage(table, number) for number, table in enumerate(tables)]
        seen: dict[str, int] = {}
        for number, stage in enumerate(stages):
            if isinstance(stage, StageConfig | GlobalStepConfig):
                name = stage_name(stage)
                if name in seen:
                    self._found.append(
                        f"{self._where('stage', number)}: stage {number + 1} is called {name!r} like stage "
                        f'{seen[name] + 1}; write name = "..." in one of them'
                    )
                seen.setdefault(name, number)
        return stages

    def _stage(self, table: dict[str, Any], number: int) -> Section | None:
        known = kinds()
        kind = table.get("kind")
        if not isinstance(kind, str) or kind not in known:
            match = nearest(kind, known) if isinstance(kind, str) else None
            what = "is missing" if kind is None else f"= {say.shown(kind)}: no such kind of stage"
            hint = f"; did you mean {match!r}?" if match else f"; allowed: {', '.join(known)}"
            self._found.append(f"{self._where('stage', number, 'kind')}: stage.kind {what}{hint}")
            return None
        return self._table(table, known[kind], "stage", number)

    def _table(self, table: object, cls: type[Section], section: str, number: int | None = None) -> Section | None:
        if not isinstance(table, dict):
            self._found.append(f"{self._where(section)}: [{section}]: must be a table")
            return None
        try:
            return cls.model_validate(table)
        except ValidationError as error:
            found = say.from_pydantic(error.errors(include_url=False), cls)
        self._found += [self._line(mistake, table, section, number) for mistake in found]
        return None

    def _line(self, mistake: Mistake, table: Mapping[str, Any], section: str, number: int | None) -> str:
        names = [str(part) for part in mistake.location]
        where = self._where(section, number, names[0] if names else "")
        value: Any = table
        for part in mistake.location:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                value = None
                break
        written = f" = {say.shown(value)}:" if value is not None and not isinstance(value, dict) else ""
        glue = "" if written or mistake.text.startswith("is missing") else ":"
        return f"{where}: {'.'.join([section, *names])}{written}{glue} {mistake.text}"

    def _where(self, section: str, number: int | None = None, key: str = "") -> str:
        """`file:line` of a key, or of its table where the key is not written."""
        head = re.compile(rf"\s*\[\[?\s*{re.escape(section)}\s*\]\]?")
        line = re.compile(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]") if key else None
        count, best = -1, 0
        inside = False
        for at, text in enumerate(self._lines, 1):
            if text.lstrip().startswith("["):
                inside = False
                if head.match(text):
                    count += 1
                    inside = number is None or count == number
                    best = at if inside else best
            elif inside and line is not None and line.match(text):
                return f"{self._source}:{at}"
        return f"{self._source}:{best}" if best else str(self._source)
