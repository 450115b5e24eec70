"""A table for the terminal in which nothing is cut: what does not fit is left out by whole columns, and it is said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len

NOTHING = ("", "-")


def listing(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, width: int, leave_out: Sequence[str] = ()
) -> Iterator[str]:
    """The lines, the headings first; where a column was left out, the last one says so.

    Guarantee: every cell of a column that is there is whole, on one line. Columns of which no row has anything go
    first, then those of `leave_out` in that order, as many as it takes; what is wider even so is wider than `width`.
    """
    empty = [name for place, name in enumerate(headings) if all(row[place] in NOTHING for row in rows)]
    shown, gone = list(headings), list[str]()
    for name in dict.fromkeys([*(name for name in leave_out if name in empty), *leave_out]):
        if sum(widths(headings, rows, shown)) + len(shown) - 1 <= width:
            break
        shown.remove(name)
        gone.append(name)
    sizes = widths(headings, rows, shown)
    for row in (headings, *rows):
        cells = (row[headings.index(name)] for name in shown)
        yield " ".join(cell + " " * (size - cell_len(cell)) for cell, size in zip(cells, sizes, strict=True)).rstrip()
    if gone:
        yield f"(not shown, too little space: {', '.join(gone)}; --json has all)"


def widths(headings: Sequence[str], rows: Sequence[Sequence[str]], shown: Sequence[str]) -> list[int]:
    """Of the columns that are shown, in characters' cells: some characters take two."""
    return [max(cell_len(row[headings.index(name)]) for row in (headings, *rows)) for name in shown]
