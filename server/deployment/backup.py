"""A coordinator's backup: all that a new machine needs to go on with its sites and runs, as of one moment.

Not in it: the SuperLink's database, which is made anew; logs; a PostgreSQL store, which has tools of its own.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url

from fedlora.deployment.archive import About, files_below, restore_archive, write_archive
from fedlora.settings import SettingsError
from server.dashboard.doors.access import access_path
from server.settings import ServerSettings, load_server
from server.trust.provision import registry_lock

KIND, LAST = "coordinator", "server.yaml"
SKIP = ("flower", "logs", "processes.json", "coordinator.json")


def back_up(settings: ServerSettings, out: Path) -> About:
    """Write the archive. SettingsError if `out` is there already, or the store's file cannot be copied."""
    store = sqlite_file(settings)
    with ExitStack() as stack:
        stack.enter_context(registry_lock(settings))  # nobody is approved or revoked, no authority changes meanwhile
        sources = list(_files(settings, out, store))
        if store is not None and store.exists():
            copy = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=out.resolve().parent))) / "store.db"
            copy_sqlite(store, copy)
            sources += [("store.db", copy), ("store.access.json", access_path(str(store)))]
        more: dict[str, Any] = {"store": "none" if store is None else str(store)}
        return write_archive(out, dict(sources).items(), kind=KIND, name=settings.name, more=more)


def restore(archive: Path, folder: Path) -> tuple[About, ServerSettings]:
    """A folder that `server up` can go on with; its settings. SettingsError if the folder holds anything."""
    about = restore_archive(archive, folder, kind=KIND, last=LAST)
    return about, load_server(folder / LAST)


def sqlite_file(settings: ServerSettings) -> Path | None:
    """The store's file; None where the store is a PostgreSQL database."""
    if "://" not in settings.store_url:
        return Path(settings.store_url)
    url = make_url(settings.store_url)
    return Path(str(url.database)) if url.get_backend_name() == "sqlite" and url.database else None


def copy_sqlite(source: Path, target: Path) -> None:
    """The database as of one moment, whoever writes meanwhile."""
    try:
        reading = sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)
        with closing(reading) as old, closing(sqlite3.connect(target)) as new:
            old.backup(new)
    except sqlite3.Error as error:
        raise SettingsError(f"the store {source} cannot be copied: {error}.") from None


def _files(settings: ServerSettings, out: Path, store: Path | None) -> Iterator[tuple[str, Path]]:
    """In an order in which nothing refers to what is older than itself: a checkpoint names the digest of lines that are
    in its rounds.jsonl from then on, so that is copied after it."""
    folder = settings.folder
    names = set(files_below(folder, skip=SKIP))
    database = settings.database.name
    left_out = {name for name in names if "/" not in name and name.startswith(database)}
    for path in (out.resolve(), *(() if store is None else _of_sqlite(store))):
        if path.is_relative_to(folder):
            left_out.add(path.relative_to(folder).as_posix())
    journals = {name for name in names if name.endswith("/rounds.jsonl")}
    checkpoints = {name for name in names if name.endswith(".safetensors")}
    for group in (checkpoints, names - checkpoints - journals, journals):
        yield from ((name, folder / name) for name in sorted(group - left_out))


def _of_sqlite(store: Path) -> list[Path]:
    return [store.with_name(store.name + end) for end in ("", "-wal", "-shm", "-journal")]
