"""A run's own log, from its last lines on: what was read once is not read again, however long the log is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

BLOCK = 1 << 16


def log_lines(folder: Path, *, last: int, until: Callable[[], bool], poll_s: float = 0.5) -> Iterator[str]:
    """The `last` lines of a run's log, and then those that are added, up to the moment when `until` is true.

    Half a line is not given before its end is there. A log that was emptied meanwhile is read from its beginning.
    """
    path, offset = folder / "run.log", None
    while True:
        over = until()  # asked before reading: what was written by then is read
        try:
            with path.open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                if offset is None:
                    offset = beginning_of(file, last=last, end=end)
                elif offset > end:
                    offset = 0
                for line in whole_lines(file, offset):
                    offset += len(line)
                    yield line.decode("utf-8", "replace").rstrip("\n")
        except FileNotFoundError:
            offset = 0  # all of it is new, once it is there
        if over:
            return
        time.sleep(poll_s)


def whole_lines(file: BinaryIO, offset: int) -> Iterator[bytes]:
    """From `offset` to the last line break."""
    file.seek(offset)
    for line in file:
        if line.endswith(b"\n"):
            yield line


def beginning_of(file: BinaryIO, *, last: int, end: int) -> int:
    """Where the last so many whole lines begin; reads no more than they and a block."""
    wanted, at, breaks = last + 1, end, 0
    while at > 0 and breaks < wanted:
        start = max(0, at - BLOCK)
        file.seek(start)
        block = file.read(at - start)
        found = block.count(b"\n")
        if breaks + found >= wanted:
            for _ in range(wanted - breaks):
                block = block[: block.rindex(b"\n")]
            return start + len(block) + 1
        breaks, at = breaks + found, start
    return 0
