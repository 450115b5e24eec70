"""Tables for people, and the document that they stand in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

END = "<!-- end -->"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown.

    >>> print(table(["a", "b"], [[1, "x"]]))
    | a | b |
    |---|---|
    | 1 | x |
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("|---" * len(header) + "|" if number == 1 else row_of(line) for number, line in enumerate(lines))


def row_of(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def write_between(document: Path, what: str, text: str) -> None:
    """Replace what stands between the document's marks of `what`. ValueError if it has none."""
    begin = f"<!-- written by {what} -->"
    before, found, rest = document.read_text(encoding="utf-8").partition(begin)
    _, end, after = rest.partition(END)
    if not found or not end:
        raise ValueError(f"{document} lacks the marks {begin} and {END}; put them where the table belongs.")
    document.write_text(f"{before}{begin}\n{text}\n{END}{after}", encoding="utf-8")
