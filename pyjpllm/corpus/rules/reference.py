"""Writes the tables of the presets from their data: python -m pyjpllm.corpus.rules.reference.

They stand in docs/corpus-rules.md behind the line `## Presets`.
"""

from __future__ import annotations

import sys

from pyjpllm.corpus.rules.presets import load_preset, preset_names


def reference() -> str:
    """The section of the presets: a table each."""
    parts = ["## Presets\n"]
    for name in preset_names():
        preset = load_preset(name)
        parts.append(f"### {name}\n\n{preset.about}. Source: {preset.source}.\n")
        if preset.edits:
            parts.append(
                f"The text of documents that are kept is then changed by {', '.join(f'`{e}`' for e in preset.edits)}; "
                "one that is blank afterwards is dropped (`emptied`).\n"
            )
        if preset.not_done:
            parts.append("Not done by these rules: " + "; ".join(preset.not_done) + ".\n")
        rows = ["| rule | measure | kept if |", "|---|---|---|"]
        for rule in preset.rule:
            measure = (
                f"`{rule.measure}`" if rule.measure else f"`{rule.meta}` of the meta" if rule.meta else rule.subject
            )
            if rule.compatible:
                measure += f", or `{rule.compatible}` with `compatible`"
            rows.append(f"| `{rule.name}` | {measure} | {rule.bounds()} |")
        if preset.rule:
            parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(reference())
