"""The SuperLink's own database: the coordinator can rebuild its contents, so a damaged one is deleted.

Sites are registered again from sites.json, and runs go on from their checkpoints.
"""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

log = logging.getLogger("fedlora.server")

WAIT_S = 5.0


def is_damaged(database: Path) -> bool:
    """Whether SQLite finds its pages malformed, or takes it for no database; a missing or a busy one is not damaged."""
    if not database.exists():
        return False
    try:
        connection = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=WAIT_S)
        try:
            return bool(connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",))
        finally:
            connection.close()
    except sqlite3.OperationalError as error:  # locked, no permission, a full disk: it may be whole
        log.warning("superlink.db cannot be checked", extra={"why": str(error)})
        return False
    except sqlite3.DatabaseError:
        return True


def give_up(database: Path) -> None:
    """Remove it with its journal: the SuperLink that is started next makes a new one."""
    for path in database.parent.glob(f"{database.name}*"):
        path.unlink(missing_ok=True)


def give_up_if_damaged(database: Path) -> bool:
    """Delete the database if it is damaged, before a SuperLink is started. True if it was damaged."""
    if not is_damaged(database):
        return False
    log.warning(
        "superlink.db is damaged and was removed: sites are registered again, runs continue from their checkpoints"
    )
    give_up(database)
    return True
