"""A site that lost its disk begins a new ledger: what the coordinator's administrator agrees to, and what stays held.

    coordinator    fedlora admin accept-new-ledger  the old key is given up, and what may have been spent is said
    site           fedlora ledger carry             a new ledger that states it; its receipts say what it states, and
                                                    are taken if that is no less

runs/accepted_ledgers.json lies beside the runs whose receipts it amends.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from fedlora.files import write_atomically
from fedlora.settings import Settings, SettingsError, parse

FILE = "accepted_ledgers.json"


class Accepted(Settings):
    """A ledger that its site has lost, as its newest receipt had it."""

    site: str
    dataset: str
    public_key: str
    """PEM; no receipt with this key is taken any more."""

    epsilon: float
    """What a new ledger must state, at `delta`: confirmed or not."""

    delta: float
    sequence: int
    """The number of the lost ledger's last entry that was seen."""

    at: float
    """When it was agreed on; seconds since 1970."""

    who: str


def read_accepted(runs: Path) -> tuple[Accepted, ...]:
    """All of them, in order. SettingsError if the file is not as it was written: without it a site could forget."""
    path = runs / FILE
    try:
        values = json.loads(path.read_bytes())
        return tuple(parse(Accepted, one, prefix=FILE) for one in values)
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError) as error:
        raise SettingsError(f"cannot read {path} ({type(error).__name__}): restore it from a backup.") from None


def accept(runs: Path, lost: Accepted) -> None:
    """From now on a new ledger of this site and dataset is taken, if it counts what was spent."""
    plain: list[Mapping[str, object]] = [one.model_dump() for one in (*read_accepted(runs), lost)]
    write_atomically(runs / FILE, json.dumps(plain, indent=2).encode())
