"""One record of a table, and the complaint about one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedlora.settings import SettingsError


@dataclass(frozen=True)
class Record:
    """The cells that were asked for, as text, by column; "" is an empty one."""

    where: str
    """File name and line (or row), for complaints."""

    cells: Mapping[str, str]


def unreadable(path: Path, where: str, why: str) -> SettingsError:
    """`why` says what is wrong and the way out, and nothing that a cell holds."""
    return SettingsError(f"{path}, {where}: {why}")


def require_columns(path: Path, found: Sequence[str], wanted: Iterable[str]) -> None:
    """SettingsError where a column is not there, or is there twice."""
    for column in wanted:
        if column not in found:
            raise SettingsError(f"{path} has no column {column!r}; it has {', '.join(map(repr, found)) or 'none'}.")
    repeated = sorted({name for name in found if name and found.count(name) > 1})
    if repeated:
        raise SettingsError(f"{path} has more than one column {repeated[0]!r}; rename or remove all but one.")
