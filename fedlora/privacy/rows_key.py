"""The site's key for hashes of its rows: 32 random bytes, mode 0600, made once, never sent.

    <state>/privacy/rows.key    decides which rows test (`data.membership`), hides the sketches (`privacy.sketch`)

With another key the split is another one, so what was tested with would be trained on; and the sketches say nothing any
more, so that the datasets that they stand for are refused. Back it up with the ledger.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from fedlora.data.membership import KEY_BYTES
from fedlora.deployment.private_files import require_private
from fedlora.files import sync_folder
from fedlora.settings import SettingsError


def rows_key(site: Path) -> bytes:
    """The key; a new one if there is none. SettingsError where others can read it, or where it is not 32 bytes."""
    path = _path(site)
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _create(path)
    return _read(path)


def stored_key(site: Path) -> bytes | None:
    """The key, or None where none was made yet."""
    return _read(_path(site)) if _path(site).exists() else None


def _path(site: Path) -> Path:
    return site / "privacy" / "rows.key"


def _read(path: Path) -> bytes:
    key = require_private(path).read_bytes()
    if len(key) != KEY_BYTES:
        raise SettingsError(f"the key {path} has {len(key)} bytes instead of {KEY_BYTES}; restore it from a backup.")
    return key


def _create(path: Path) -> None:
    """Whole or not at all; the first of two processes wins, and both then read the same key."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
