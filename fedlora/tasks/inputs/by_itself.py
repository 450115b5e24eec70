"""Rows to items one by one, so that no row makes the others fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fedlora.data.row import Row
from fedlora.settings import SettingsError
from fedlora.tasks.base import Item


def by_itself(
    rows: Sequence[Row], make: Callable[[Row], Item], nothing: Callable[[], Item], *, each: bool
) -> list[Item]:
    """What `make` makes of every row. Where it fails: with `each`, whatever it raises, `nothing`; otherwise
    SettingsError with the row's number. `make` says nothing of the row in what it raises as a ValueError."""
    return [_made(row, number, make, nothing, each) for number, row in enumerate(rows, start=1)]


def _made(row: Row, number: int, make: Callable[[Row], Item], nothing: Callable[[], Item], each: bool) -> Item:
    try:
        return make(row)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a tokenizer's own panic is no `Exception`
        if each:
            return nothing()
        why = error if isinstance(error, ValueError) else type(error).__name__
        raise SettingsError(f"example {number} cannot be used: {why}.") from None
