"""Keys and secrets on disk: readable by their owner alone, and refused when they are not."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from fedlora.files import sync_folder
from fedlora.settings import SettingsError


def write_private(path: Path, content: bytes) -> None:
    """Create or replace `path` with mode 0600; at no time does anybody else have a file to read."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)  # of a process that was killed; in a container every process has the same id
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def make_private_folder(path: Path) -> None:
    """A folder that only its owner can enter; one that was there before keeps its mode: it may serve others too."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def require_private(path: Path) -> Path:
    """`path`, or a SettingsError if it is missing or anybody but its owner may read or write it."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise SettingsError(f"cannot read the key {path}: {error.strerror}.") from None
    if mode & 0o077:
        raise SettingsError(
            f"the key {path} has mode {mode:04o}, others can read it; it must be 0600: chmod 600 {path}"
        )
    return path
