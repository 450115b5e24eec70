"""The figures of docs/gpu.md, made of what a GPU has written; without that, the sentence that there are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[2] / "docs"
RESULT, PAGE = DOCS / "gpu.json", DOCS / "gpu.md"
BEGIN, END = "<!-- begin: made by make gpu -->", "<!-- end: made by make gpu -->"
NOT_RUN = "**Not run yet on a GPU.** No figure of speed or memory on CUDA is claimed, here or in any other page.\n"

Row = dict[str, Any]


def record(found: dict[str, Any]) -> None:
    """Into the repository: a GPU's result, and the page with it."""
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    PAGE.write_text(with_figures(PAGE.read_text(encoding="utf-8"), figures_of(found)), encoding="utf-8")


def recorded() -> str:
    """What the page must say between its marks."""
    return figures_of(json.loads(RESULT.read_text(encoding="utf-8"))) if RESULT.exists() else NOT_RUN


def with_figures(text: str, figures: str) -> str:
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{figures}{END}{rest.split(END)[1]}"


def figures_of(found: dict[str, Any]) -> str:
    """Markdown: where, then a table for each part."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines = [f"{found['name']} (`{found['device']}`, size {found['size']}), {versions}, {found['date']}.", ""]
    for name, part in found["parts"].items():
        lines += [f"### {name.capitalize()}", ""]
        if "failed" in part:
            lines += [f"Failed: {part['failed']}", ""]
        lines += [*table(part["rows"]), ""]
    return "\n".join(lines)


def table(rows: list[Row]) -> list[str]:
    """One column for each name that any row has, in the order in which they come."""
    names = list(dict.fromkeys(name for row in rows for name in row if name != "what" or of_many(rows)))
    if not rows:
        return ["Nothing."]
    head = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return head + ["| " + " | ".join(said(row.get(name)) for name in names) + " |" for row in rows]


def of_many(rows: list[Row]) -> bool:
    return len({row.get("what") for row in rows}) > 1


def said(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value).replace("|", "/").replace("\n", " ")
