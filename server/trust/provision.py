"""The coordinator's folder, and the registry of sites whose keys the SuperLink accepts.

    approved ──► registered with the SuperLink (node id)     at once when it runs, at its next start when it does not
    revoked  ──► unregistered, at once; its key is never accepted again

sites.json is the truth; `registration.reconcile` makes the SuperLink agree with it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedlora.deployment.enrolment import (
    Grant,
    Request,
    certificate_fingerprint,
    fingerprint,
    require_name,
    require_valid,
)
from fedlora.deployment.environment import is_ipv6, join_address, split_address
from fedlora.deployment.private_files import make_private_folder, write_private
from fedlora.files import write_atomically
from fedlora.plain_yaml import yaml_text
from fedlora.settings import Settings, SettingsError, parse
from server.settings import ServerSettings
from server.trust.authority import newest_signer
from server.trust.certificates import issue_server_certificate, make_authority, site_certificate
from server.trust.grants import remember_grant

log = logging.getLogger("fedlora.sites")

MORE = """\
# The classes, in the order of the head's outputs; a recipe may name its own.
# labels: [negative, neutral, positive]
# Your own test set: rounds are evaluated on it, and the classes are taken from it.
# held_out: {file: held-out.csv, text: text, label: label}
# Metrics for Prometheus; use an address that only your own machines can reach.
# metrics_listen: 127.0.0.1:9094
"""
"""Optional settings, as comments in a new server.yaml."""


class SiteEntry(Settings):
    """One site as the coordinator knows it."""

    public_key: str
    status: Literal["approved", "revoked"]
    node: int | None = None
    """Flower's id for the key, once the SuperLink has it."""
    retired_keys: tuple[str, ...] = ()
    """Keys of this site that were replaced or revoked; none of them is accepted again."""
    cut_off: tuple[int, ...] = ()
    """Nodes that the SuperLink has still to forget."""


ApprovalKind = Literal["site-approved", "site-key-replaced", "site-granted-again"]
"""Fields of the audit log's event."""


@dataclass(frozen=True)
class Registry:
    """All sites, by name. A value; `changed_registry` reads, lets it be replaced, and writes."""

    sites: Mapping[str, SiteEntry]

    def name_of(self, node: int) -> str | None:
        """The site that a node's key was approved for."""
        return next((name for name, site in self.sites.items() if site.node == node), None)

    @property
    def approved(self) -> list[str]:
        """Who takes part."""
        return sorted(name for name, site in self.sites.items() if site.status == "approved")


def initialise(folder: Path, *, name: str, address: str) -> ServerSettings:
    """A new coordinator's folder: authority, server certificate, secret, server.yaml. SettingsError if it has one."""
    host, port = split_address(address)
    require_name(name, what="coordinator")
    if (folder / "server.yaml").exists():
        raise SettingsError(f"{folder} already contains a coordinator; nothing was changed. Choose another folder.")
    make_private_folder(folder)
    make_private_folder(folder / "pki")
    make_authority(folder / "pki", coordinator=name)
    issue_server_certificate(folder / "pki", hosts=[host])
    write_private(folder / "secret", secrets.token_hex(32).encode())
    write_atomically(folder / "sites.json", b"{}")
    everywhere = "::" if is_ipv6(host) else "0.0.0.0"
    settings = {"name": name, "address": address, "listen": join_address(everywhere, port)}
    write_atomically(folder / "server.yaml", (yaml_text(settings) + MORE).encode())
    return parse(ServerSettings, {**settings, "folder": folder.resolve()})


def read_registry(settings: ServerSettings) -> Registry:
    """sites.json."""
    return registry_in(settings.folder)


class LastRegistry:
    """sites.json as it was when it could last be read: a run goes on while an administrator mends it."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._last: Registry | None = None
        self._said = False

    def read(self) -> Registry:
        """SettingsError only where it could never be read."""
        try:
            self._last = read_registry(self._settings)
            self._said = False
        except SettingsError as error:
            if self._last is None:
                raise
            if not self._said:
                log.warning("the run continues with the sites that it last read", extra={"why": str(error)})
            self._said = True
        return self._last


def registry_in(folder: Path) -> Registry:
    """sites.json of a coordinator's folder. SettingsError if it is not as it was written."""
    path = folder / "sites.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or not all(isinstance(site, dict) for site in values.values()):
            raise TypeError  # an empty list is not a registry without sites
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise SettingsError(f"cannot read {path} ({type(error).__name__}): restore it from a backup.") from None
    return Registry({name: parse(SiteEntry, site, prefix=name) for name, site in values.items()})


def write_registry(settings: ServerSettings, registry: Registry) -> None:
    """Replace sites.json; call it under `registry_lock`."""
    plain = {name: site.model_dump(mode="json") for name, site in sorted(registry.sites.items())}
    write_atomically(settings.folder / "sites.json", json.dumps(plain, indent=2).encode())


@contextmanager
def registry_lock(settings: ServerSettings) -> Iterator[None]:
    """One writer at a time, whichever process it is in."""
    with (settings.folder / "sites.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def kind_of_approval(settings: ServerSettings, request: Request) -> tuple[ApprovalKind, str | None]:
    """The change that an approval would make, and the fingerprint of the site's present key; None for a new site."""
    old = read_registry(settings).sites.get(request.site)
    if old is None:
        return "site-approved", None
    same = old.public_key == request.public_key
    return ("site-granted-again" if same else "site-key-replaced"), fingerprint(old.public_key)


def approve(settings: ServerSettings, request: Request) -> Grant:
    """Accept a site's key. A known site's new key replaces its old one (rotation); a retired key is refused.

    Everything that can fail comes first: whoever is approved has a grant.
    """
    require_valid(request)
    grant, authority = _granted(settings, request.site, request.public_key)
    with registry_lock(settings):
        registry = read_registry(settings)
        _require_fresh(registry, request)
        old = registry.sites.get(request.site)
        entry = SiteEntry(public_key=request.public_key, status="approved")
        if old is not None and old.public_key == request.public_key:
            entry = old
        elif old is not None:
            entry = entry.model_copy(update=_retired(old))
        write_registry(settings, Registry({**registry.sites, request.site: entry}))
        remember_grant(settings.folder, request.site, authority, at=time.time())
    return grant


def grant_again(settings: ServerSettings, site: str) -> Grant:
    """A new grant for the key that an approved site has: of the newest authority, with today's address."""
    with registry_lock(settings):
        found = read_registry(settings).sites.get(site)
        if found is None or found.status != "approved":
            raise SettingsError(f"{site} is not approved; approve its request.json with: fedlora admin approve")
        grant, authority = _granted(settings, site, found.public_key)
        remember_grant(settings.folder, site, authority, at=time.time())
    return grant


def _granted(settings: ServerSettings, site: str, public_key: str) -> tuple[Grant, str]:
    """The grant, and the fingerprint of the authority that signed the certificate in it."""
    signer = newest_signer(settings.pki)
    grant = Grant(
        site=site,
        coordinator=settings.name,
        address=settings.address,
        ca_certificate=(settings.pki / "ca.crt").read_text(encoding="utf-8"),
        key=fingerprint(public_key),
        certificate=site_certificate(signer, site=site, public_key=public_key),
    )
    return grant, certificate_fingerprint(signer.certificate)


def revoke(settings: ServerSettings, site: str) -> None:
    """Revoke a site. SettingsError if there is no such site."""
    with registry_lock(settings):
        registry = read_registry(settings)
        old = registry.sites.get(site)
        if old is None:
            known = ", ".join(sorted(registry.sites)) or "none"
            raise SettingsError(f"there is no site {site!r}; known sites: {known}.")
        revoked = SiteEntry(public_key=old.public_key, status="revoked").model_copy(update=_retired(old))
        write_registry(settings, Registry({**registry.sites, site: revoked}))


def is_reconciled(registry: Registry) -> bool:
    """Whether the SuperLink knows all of the site's changes."""
    return all(not s.cut_off and (s.status == "revoked") == (s.node is None) for s in registry.sites.values())


def _require_fresh(registry: Registry, request: Request) -> None:
    for name, site in registry.sites.items():
        if request.public_key in site.retired_keys:
            raise SettingsError(
                f"this key of {name} was replaced or revoked; the site must create a new one: "
                "fedlora client enroll --new-key"
            )
        if name != request.site and request.public_key == site.public_key:
            raise SettingsError(f"this key already belongs to the site {name}; every site must create its own.")


def _retired(old: SiteEntry) -> dict[str, object]:
    nodes = () if old.node is None else (old.node,)
    return {
        "retired_keys": tuple(dict.fromkeys([*old.retired_keys, old.public_key])),
        "cut_off": tuple(dict.fromkeys([*old.cut_off, *nodes])),
    }
