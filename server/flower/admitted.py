"""Approved sites, and when each last connected: the coordinator's files as the access check reads and writes them."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from fedlora.files import write_atomically
from fedlora.settings import SettingsError
from server.trust.provision import Registry, registry_in

log = logging.getLogger("fedlora.admitted")

WRITE_S = 10.0
"""Shortest time between two writes of seen.json, in seconds: a node's heartbeat comes every 30 s."""


class Approved:
    """The approved sites by the PEM text of their keys, read again whenever sites.json changes.

    A file that cannot be read changes nobody's place; before it was read once, nobody has one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: object = None
        self._sites: Mapping[bytes, str] = {}

    def __call__(self) -> Mapping[bytes, str]:
        try:
            found = (self._folder / "sites.json").stat()
            version = (found.st_mtime_ns, found.st_ino, found.st_size)
            if version != self._read:
                self._sites = by_key(registry_in(self._folder))
                self._read = version
        except (OSError, SettingsError, ValueError) as error:
            log.warning("sites.json cannot be read; the last known approvals stay in force", extra={"why": str(error)})
        return self._sites


def by_key(registry: Registry) -> dict[bytes, str]:
    """As a SuperNode shows its key: PEM."""
    return {as_pem(site.public_key): name for name, site in registry.sites.items() if site.status == "approved"}


def as_pem(public_key: str) -> bytes:
    """An OpenSSH public key in the format in which Flower sends it."""
    key = serialization.load_ssh_public_key(public_key.encode())
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


class Seen:
    """Remembers in seen.json when each site last made an accepted call."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = folder / "seen.json"
        self._clock = clock
        self._lock = threading.Lock()
        self._at = read_seen(folder)
        self._written = 0.0

    def __call__(self, site: str) -> None:
        with self._lock:
            now = self._clock()
            fresh = site not in self._at
            self._at[site] = round(now)
            if not fresh and abs(now - self._written) < WRITE_S:
                return
            self._written = now
            try:
                write_atomically(self._path, json.dumps(self._at).encode())
            except OSError as error:  # a full disk costs this record, and no site its call
                log.warning("seen.json cannot be written", extra={"why": error.strerror})


def read_seen(folder: Path) -> dict[str, float]:
    """Seconds since 1970 at which each site was last here; {} where nobody was, or the file is damaged."""
    try:
        values = json.loads((folder / "seen.json").read_bytes())
        return {str(site): float(at) for site, at in values.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
