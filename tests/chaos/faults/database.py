"""The SuperLink's database: locked, lost, with corrupt pages."""

from __future__ import annotations

import os
import secrets
import signal
import sqlite3
import time
from pathlib import Path

from fedlora.processes.living import is_alive
from server.flower.link_database import is_damaged
from tests.chaos.report import Seen
from tests.chaos.scene import Scene

PAGE = 4096


def lock_database(scene: Scene) -> Seen:
    """Ten seconds in which the SuperLink cannot write it."""
    with sqlite3.connect(scene.deployment.settings.database, timeout=30) as store:
        store.execute("BEGIN EXCLUSIVE")
        time.sleep(10)
        wrong = scene.wrong("server")
    store.close()
    return Seen(f"locked for 10 s; said: {', '.join(wrong) or 'nothing'}")


def lose_database(scene: Scene) -> Seen:
    """It is gone, and the SuperLink with it: it knows neither sites nor runs any more."""
    superlink = scene.child("server", "superlink")
    for path in scene.deployment.settings.folder.glob("superlink.db*"):
        path.unlink()
    return Seen("removed; the SuperLink was gone", scene.end(superlink, signal.SIGKILL))


def corrupt_while_it_works(scene: Scene) -> Seen:
    """Nobody tells the SuperLink; the coordinator has to find out."""
    superlink, began = scene.child("server", "superlink"), time.monotonic()
    pages = corrupt(scene.deployment.settings.database)
    if pages == 0:
        return Seen("SQLite did not find it damaged", happened=False)
    gone = scene.wait_gone([superlink])
    said = f"SuperLink ended after {time.monotonic() - began:.1f} s" if gone else "the SuperLink was not ended"
    return Seen(f"{pages} pages overwritten; {said}")


def corrupt_and_kill(scene: Scene) -> Seen:
    """The SuperLink dies at the same moment: the next one must not begin with what is left."""
    superlink, database = scene.child("server", "superlink"), scene.deployment.settings.database
    with scene.holds.stopped(superlink.pid):
        pages, inode = corrupt(database), database.stat().st_ino
        os.kill(superlink.pid, signal.SIGKILL)
    began = time.monotonic()

    def is_new() -> bool:
        return database.exists() and database.stat().st_ino != inode and not is_damaged(database)

    new = scene.wait_for(is_new, look_s=0.2)
    said = f"a new database after {time.monotonic() - began:.1f} s" if new else "no new database"
    return Seen(f"{pages} pages overwritten; {said}", pages > 0 and not is_alive(superlink))


def corrupt(database: Path) -> int:
    """Overwrite every page but the first with random bytes; how many, 0 where SQLite finds nothing wrong with it."""
    for _ in range(5):
        store = sqlite3.connect(database, timeout=5)
        store.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # else the journal has whole copies of them
        store.close()
        pages = database.stat().st_size // PAGE
        with database.open("r+b") as file:
            file.seek(PAGE)
            file.write(secrets.token_bytes((pages - 1) * PAGE))
        if is_damaged(database):
            return pages - 1
    return 0
