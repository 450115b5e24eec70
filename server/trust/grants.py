"""granted.json: when each site was last granted, and by which authority. For people and alerts: all that is decided
by it is who has still to take a grant of a new authority."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from fedlora.files import write_atomically
from fedlora.settings import Settings, SettingsError, parse


class Granted(Settings):
    """A site's newest grant."""

    at: float
    """Seconds since 1970."""

    authority: str
    """Fingerprint of the authority that signed the site's certificate."""


def read_granted(folder: Path) -> Mapping[str, Granted]:
    """By site; nobody where the file is missing or damaged."""
    try:
        values = json.loads((folder / "granted.json").read_bytes())
        return {str(site): parse(Granted, granted) for site, granted in values.items()}
    except (OSError, ValueError, AttributeError, TypeError, SettingsError):
        return {}


def remember_grant(folder: Path, site: str, authority: str, *, at: float) -> None:
    """Call it under the registry's lock."""
    known = {**read_granted(folder), site: Granted(at=at, authority=authority)}
    plain = {name: known[name].model_dump() for name in sorted(known)}
    write_atomically(folder / "granted.json", json.dumps(plain, indent=2).encode())
