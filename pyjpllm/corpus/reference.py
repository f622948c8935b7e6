"""Writes the reference of a pipeline's fields from their classes.

python -m pyjpllm.corpus.reference > docs/corpus-configuration.md
"""

from __future__ import annotations

import sys

from pyjpllm.config.reference import section
from pyjpllm.corpus.config import STAGES, InputConfig, OutputConfig, RunConfig, kinds

_HEAD = """\
# Fields of a pipeline

<!-- Written by `python -m pyjpllm.corpus.reference > docs/corpus-configuration.md`; edit the classes instead. -->

The TOML file of `jpllm corpus build` has the sections `[input]`, `[output]` and `[run]`, and a `[[stage]]` for each
stage, in their order. [corpus.md](corpus.md) says what they do; [examples/corpus.toml](../examples/corpus.toml) is one.
A value is never converted: `"100"` is no number. Paths are relative to the folder the command is started in.
"""


def reference() -> str:
    """The text of docs/corpus-configuration.md."""
    parts = [_HEAD]
    for name, table in (("input", InputConfig), ("output", OutputConfig), ("run", RunConfig)):
        parts.append(section(name, table).replace("### [input.pairs]", "### [[input.pairs]]"))
    by_class = {table: name for name, table in kinds().items()}
    for stage in STAGES:
        text = section("stage", stage)
        parts.append(text.replace("## [stage]", f'## [[stage]] kind = "{by_class[stage]}"', 1))
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(reference())
