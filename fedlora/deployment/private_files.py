"""Keys and secrets on disk: readable by their owner alone, and refused when they are not."""

from __future__ import annotations

import stat
from pathlib import Path

from fedlora.files import write_atomically
from fedlora.settings import SettingsError


def write_private(path: Path, content: bytes) -> None:
    """Create or replace `path` with mode 0600; at no time does anybody else have a file to read."""
    write_atomically(path, content, mode=0o600)


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
