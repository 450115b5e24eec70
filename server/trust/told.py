"""Trust decisions that are made on the command line, as events of the audit log beside those of the dashboard.

A store that cannot be reached keeps nobody from cutting a site off: the event waits in untold.jsonl, and is written
with the next one that can be, with its own time.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from fedlora.files import sync_folder
from fedlora.settings import SettingsError
from server.settings import ServerSettings
from server.store.audit import append_event
from server.store.opening import open_store

log = logging.getLogger("fedlora.told")

FILE = "untold.jsonl"


def tell(settings: ServerSettings, kind: str, **particulars: Any) -> bool:
    """Write the event, and those that waited. False where they wait now; OSError where not even that can be written.

    It is on the disk before the store is tried: a kill in between may write it twice, and loses none.
    """
    with _waiting(settings.folder) as path:
        line = json.dumps({"kind": kind, "who": operator(), "at": time.time(), "particulars": particulars})
        with path.open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")  # a line before it may have been cut short
            file.flush()
            os.fsync(file.fileno())
        sync_folder(settings.folder)
        return _told(settings, path)


def tell_waiting(settings: ServerSettings) -> bool:
    """Write what waited, if anything did: at a coordinator's start. Never an exception."""
    if not (settings.folder / FILE).exists():
        return True
    try:
        with _waiting(settings.folder) as path:
            return _told(settings, path)
    except OSError as error:
        log.warning("events of the command line are still waiting", extra={"why": error.strerror})
        return False


def operator() -> str:
    """The user at the terminal, as this machine knows them."""
    try:
        return f"command line: {os.environ.get('SUDO_USER') or getpass.getuser()}"
    except (KeyError, OSError):  # a user without a name, as in a container
        return f"command line: {os.getuid()}"


@contextmanager
def _waiting(folder: Path) -> Iterator[Path]:
    with (folder / "untold.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield folder / FILE


def _told(settings: ServerSettings, path: Path) -> bool:
    events = list(_events(path))
    try:
        store = open_store(settings.store_url)
    except SettingsError as error:
        log.warning("the audit log cannot be written; the event will be written later", extra={"why": str(error)})
        return False
    try:
        with store.writing() as connection:
            for event in events:
                append_event(connection, event["kind"], who=event["who"], at=event["at"], **event["particulars"])
    except SQLAlchemyError as error:
        log.warning(
            "the audit log cannot be written; the event will be written later", extra={"why": type(error).__name__}
        )
        return False
    finally:
        store.close()
    path.unlink(missing_ok=True)
    return True


def _events(path: Path) -> Iterator[Mapping[str, Any]]:
    """The events that wait; a line that a crash cut short was never told to anybody as done."""
    if not path.exists():
        return
    for line in filter(None, path.read_text(encoding="utf-8").splitlines()):
        try:
            yield json.loads(line)
        except ValueError:
            log.warning("a line of %s is damaged and is skipped", path)
