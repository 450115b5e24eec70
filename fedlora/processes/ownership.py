"""One owner of a folder: a lock that the kernel lets go when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fedlora.settings import SettingsError

LOCK = "owner.lock"


@contextmanager
def sole_owner(folder: Path, what: str) -> Iterator[None]:
    """Hold the folder; SettingsError says who does if another process has it.

    Guarantee: no two holders at a time, on one machine or on a file system that locks for all of its machines; nothing
    in the folder was read or changed before.
    """
    path = folder / LOCK
    try:
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{path} cannot be opened: {error.strerror}. {what} must be able to write there.") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(
                f"{folder} is in use by {_holder(file)}; two processes would damage its contents. Stop "
                f"that one first, or use another folder."
            ) from None
        _sign(file, what)
        yield


def _sign(file: IO[str], what: str) -> None:
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    try:
        file.truncate(0)
        file.write(json.dumps({"what": what, "pid": os.getpid(), "since": since}))
        file.flush()
    except OSError:  # a full disk: the lock holds, its label is missing
        return


def _holder(file: IO[str]) -> str:
    try:
        file.seek(0)
        found = json.loads(file.read())
        return f"{found['what']}, process {found['pid']}, since {found['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process (unknown)"
