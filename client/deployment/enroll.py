"""Enrolment at the site: a key that never leaves, a request that does, and the grant that comes back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.deployment.declared import Declared, declared
from client.flower.identity import certificate_for, load_node_key
from fedlora.deployment.enrolment import (
    Grant,
    Request,
    authorities_in,
    certificate_fingerprint,
    fingerprint,
    make_request,
    new_node_key,
    require_name,
)
from fedlora.deployment.private_files import make_private_folder, require_private, write_private
from fedlora.files import sync_folder, write_atomically
from fedlora.plain_yaml import yaml_text
from fedlora.privacy.policy import Policy
from fedlora.settings import SettingsError, read_mapping

MORE = """\
# Under data, where you need them: the columns text and label, a file test; dataset: its name in policy and ledger.
# device: cuda:0
# limits: {memory_mib: 12288, megabits_s: 20}
"""
"""What else a person may want to write into client.yaml."""

BASES = """\
# No base model is loaded for a task unless it is listed: `fedlora client doctor --model ID` prints the line.
# base_models: []
"""

STRICT = ("require_privacy", "epsilon_budget", "max_delta", "min_noise_multiplier", "allow_metrics")


def ask(folder: Path, *, site: str) -> Request:
    """Write node.key (0600) unless there is one, and request.json, which goes to the coordinator."""
    require_name(site, what="site")
    make_private_folder(folder)
    key = folder / "node.key"
    if not key.exists():
        write_private(key, new_node_key())
    request = make_request(site, require_private(key).read_bytes())
    write_atomically(folder / "request.json", request.model_dump_json(indent=2).encode())
    return request


def ask_with_new_key(folder: Path, *, site: str) -> Request:
    """Rotation: a new key beside the old one; it takes the old one's place when the grant for it is accepted."""
    require_name(site, what="site")
    make_private_folder(folder)
    write_private(folder / "node.key.next", new_node_key())
    request = make_request(site, require_private(folder / "node.key.next").read_bytes())
    write_atomically(folder / "request.json", request.model_dump_json(indent=2).encode())
    return request


@dataclass(frozen=True)
class Change:
    """What a grant would replace at a site that has taken one before."""

    authorities: tuple[str, ...]
    """Fingerprints of those that are trusted now; empty where nobody is."""
    new_authorities: tuple[str, ...]
    """Of the grant's that are not among them: another authority, or the one that is to follow."""
    coordinator: str | None
    """The address in client.yaml, where the grant's is another."""

    @property
    def asks(self) -> bool:
        """Whether a person should look: the site would trust somebody whom it does not trust now."""
        return bool(self.authorities and self.new_authorities)


def change_of(folder: Path, grant: Grant) -> Change:
    """What `accept` would replace. SettingsError where the present files cannot be read."""
    trusted: tuple[str, ...] = ()
    if (folder / "ca.crt").exists():
        trusted = tuple(map(certificate_fingerprint, authorities_in((folder / "ca.crt").read_text(encoding="utf-8"))))
    given = tuple(map(certificate_fingerprint, authorities_in(grant.ca_certificate)))
    address = None
    if (folder / "client.yaml").exists():
        here = read_mapping(folder / "client.yaml", "client.yaml").get("coordinator")
        address = str(here) if here != grant.address else None
    return Change(trusted, tuple(one for one in given if one not in trusted), address)


def accept(folder: Path, grant: Grant, *, train: Path | None = None) -> None:
    """Take the coordinator's grant: ca.crt, site.crt, the approved key, client.yaml and policy.yaml if there are none.

    Everything is checked before anything is written: the grant must be for a key that this folder holds, and its
    certificates valid by this clock. The new key takes the old one's place last, when the certificate for it is there
    beside the old one's: a kill or a full disk at any step leaves a site that works, and the grant can be taken again.
    """
    current, following = folder / "node.key", folder / "node.key.next"
    approved = _approved_key(folder, grant)
    _require_valid_now(grant, load_node_key(approved).public_key())
    write_atomically(folder / "ca.crt", grant.ca_certificate.encode())
    if grant.certificate is not None:
        old = None if approved == current or not current.exists() else load_node_key(current).public_key()
        kept = None if old is None else certificate_for(old, folder / "site.crt")
        pem = "" if kept is None else kept.public_bytes(serialization.Encoding.PEM).decode()
        write_atomically(folder / "site.crt", (grant.certificate + pem).encode())
    if approved == following:
        following.replace(current)
        sync_folder(folder)
    _write_settings(folder, grant, train)


def _approved_key(folder: Path, grant: Grant) -> Path:
    for key in (folder / "node.key.next", folder / "node.key"):
        if key.exists():
            request = make_request(grant.site, require_private(key).read_bytes())
            if fingerprint(request.public_key) == grant.key:
                return key
    raise SettingsError(
        f"the grant is for the key {grant.key}, which {folder} does not hold; send request.json again and ask "
        "for a new grant."
    )


def _require_valid_now(grant: Grant, key: ec.EllipticCurvePublicKey) -> None:
    """SettingsError unless one authority and the site's certificate hold by this clock, and the latter is the key's."""
    now, own = datetime.now(UTC), [] if grant.certificate is None else authorities_in(grant.certificate)
    if any(certificate.public_key() != key for certificate in own):
        raise SettingsError("the certificate in the grant is for another key; ask for the grant again.")
    for certificate in [*own, *authorities_in(grant.ca_certificate)[-1:]]:
        if now < certificate.not_valid_before_utc:
            begin = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
            raise SettingsError(
                f"the grant holds from {begin}, and this clock says {now:%Y-%m-%d %H:%M}: set it right."
            )
        if now > certificate.not_valid_after_utc:
            end = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
            raise SettingsError(f"the grant ended on {end} by this clock; set it right, or ask for a new grant.")


def _write_settings(folder: Path, grant: Grant, train: Path | None) -> None:
    """client.yaml and policy.yaml, where there are none."""
    config = folder / "client.yaml"
    known = config.exists()
    if known and train is not None:
        _require_named(config, train)
    found = Declared() if known else declared(folder / "state", train)
    if not known:
        values = {
            "site": grant.site,
            "coordinator": grant.address,
            "data": {"train": str(train or "train.csv"), **found.data()},
            "policy": "policy.yaml",
        }
        write_atomically(config, (yaml_text(values) + MORE).encode())
    policy = folder / "policy.yaml"
    if not policy.exists():
        bounds = yaml_text({"coordinators": [grant.coordinator]}) + found.policy() + defaults()
        write_atomically(policy, bounds.encode())


def _require_named(config: Path, train: Path) -> None:
    """SettingsError where client.yaml, which is kept, names other data than those that were given."""
    data = read_mapping(config, str(config)).get("data")
    named = data.get("train") if isinstance(data, Mapping) else None
    if named is None or (config.parent / str(named)).resolve() != train.resolve():
        raise SettingsError(
            f"the grant is taken; {config} is there already and is kept, and its data.train is {named}, not {train}. "
            "Write it there, or remove client.yaml and policy.yaml and take the grant again: classes and size are then "
            "written for these data."
        )


def defaults() -> str:
    """The policy's own, as comments: what holds where nothing is written."""
    lines = [f"# {name}: {json.dumps(Policy.model_fields[name].default)}" for name in STRICT]
    strict = "\n".join(["# No coordinator can change what is written here. What is not written is strict:", *lines, ""])
    return strict + BASES
