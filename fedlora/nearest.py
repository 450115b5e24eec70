"""Suggestions for a misspelt name or path."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

MOST_ENTRIES = 2000
"""Of a folder: comparing names takes time, and an error message must not."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that somebody may have meant: case and spaces apart the same, or nearly the same letters.

    >>> nearest("Label", ["text", " label"]), nearest("lable", ["label"]), nearest("mood", ["label"])
    (' label', 'label', None)
    """
    plain = {one.strip().casefold(): one for one in known}
    near = difflib.get_close_matches(name.strip().casefold(), plain, n=1)
    return plain[near[0]] if near else None


def did_you_mean(path: str | Path) -> str:
    """` Did you mean recipe.yaml?` for a path that is not there and whose near one is; otherwise nothing.

    For whoever may look into that folder anyway: it names what is in it.
    """
    found = near_path(Path(path))
    if found is None:
        return ""
    return f" Did you mean {found if str(found).isprintable() else repr(str(found))}?"


def near_path(path: Path) -> Path | None:
    """The path that is there and differs from a missing one in misspelt names alone; None where there is none."""
    try:
        asked = path.expanduser()
        if asked.exists():
            return None
        here = Path(asked.anchor)
        for part in asked.parts[1 if asked.anchor else 0 :]:
            name = part if (here / part).exists() else _near_name(part, here)
            if name is None:
                return None
            here /= name
    except (OSError, ValueError, RuntimeError):  # a folder that one may not read, no name of a file, nobody's home
        return None
    return here


def _near_name(name: str, folder: Path) -> str | None:
    """The entry with that name and another ending, or with nearly that name and the same ending: an ending that most
    files have must not make two names alike."""
    entries = [entry.name for entry in islice(folder.iterdir(), MOST_ENTRIES) if not entry.name.startswith(".")]
    asked = Path(name)
    same = [entry for entry in entries if Path(entry).stem.casefold() == asked.stem.casefold()]
    if same:
        return max(sorted(same), key=lambda entry: difflib.SequenceMatcher(None, name, entry).ratio())
    alike = {Path(entry).stem: entry for entry in entries if Path(entry).suffix.casefold() == asked.suffix.casefold()}
    near = nearest(asked.stem, alike)
    return None if near is None else alike[near]
