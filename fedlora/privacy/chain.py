"""Hash-chained lines: every line carries the digest of the one before, so that none can be changed or taken out.

A line is canonical JSON: {"sequence": 1, "previous": <digest of line 0>, ..., "digest": <SHA-256 of all the rest>}.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GENESIS = "0" * 64


@dataclass(frozen=True)
class Entry:
    """One line. `fields` is its content; the rest binds it to its place."""

    sequence: int
    previous: str
    fields: Mapping[str, Any]
    digest: str

    @property
    def kind(self) -> str:
        return str(self.fields["kind"])


@dataclass(frozen=True)
class Chain:
    """The valid part of a file: its longest unbroken beginning, and a description of what follows."""

    entries: tuple[Entry, ...]
    sound_bytes: int
    torn_bytes: int = 0
    """Length of a last line without its end: a write that a crash cut short. Nobody was told that it is in the file."""

    problem: str | None = None
    """Why a complete line cannot be trusted; then nothing after it is trusted either."""

    @property
    def head(self) -> str:
        return self.entries[-1].digest if self.entries else GENESIS


def canonical(fields: Mapping[str, Any]) -> bytes:
    """The canonical encoding of fields.

    >>> canonical({"b": 1, "a": "é"})
    b'{"a":"\\\\u00e9","b":1}'
    """
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def line_after(head: str, sequence: int, fields: Mapping[str, Any]) -> tuple[Entry, bytes]:
    """The entry that follows `head`, and its line."""
    body = {**fields, "sequence": sequence, "previous": head}
    digest = hashlib.sha256(canonical(body)).hexdigest()
    return Entry(sequence, head, dict(fields), digest), canonical({**body, "digest": digest}) + b"\n"


def read_chain(content: bytes) -> Chain:
    """Parse lines until the first that does not follow from the one before."""
    entries: list[Entry] = []
    head, position = GENESIS, 0
    while (end := content.find(b"\n", position)) >= 0:
        problem, entry = _parse(content[position:end], head, len(entries) + 1)
        if entry is None:
            return Chain(tuple(entries), position, problem=f"line {len(entries) + 1} {problem}")
        entries.append(entry)
        head, position = entry.digest, end + 1
    return Chain(tuple(entries), position, torn_bytes=len(content) - position)


def _parse(line: bytes, head: str, sequence: int) -> tuple[str | None, Entry | None]:
    try:
        body = json.loads(line)
        digest = body.pop("digest")
        found = hashlib.sha256(canonical(body)).hexdigest()
        fields = {key: value for key, value in body.items() if key not in ("sequence", "previous")}
        entry = Entry(body["sequence"], body["previous"], fields, digest)
        _ = entry.kind
    except (ValueError, KeyError, TypeError, AttributeError):
        return "is not an entry", None
    if found != digest:
        return "was changed: its digest does not match its content", None
    if entry.previous != head or entry.sequence != sequence:
        return "does not follow the line before it", None
    return None, entry
