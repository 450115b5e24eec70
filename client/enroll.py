"""Enrolment at the site: a key that never leaves, a request that does, and the grant that comes back."""

from __future__ import annotations

import json
from pathlib import Path

from fedlora.enrolment import Grant, Request, fingerprint, make_request, new_node_key, require_name
from fedlora.files import write_atomically
from fedlora.plain_yaml import yaml_text
from fedlora.privacy.policy import Policy
from fedlora.private_files import make_private_folder, require_private, write_private
from fedlora.settings import SettingsError

MORE = """\
# Under data, where you need them: the columns text and label, a file test; dataset: its name in policy and ledger.
# device: cuda:0
# limits: {memory_mib: 12288, megabits_s: 20}
"""
"""What else a person may want to write into client.yaml."""

STRICT = ("require_privacy", "largest_epsilon", "largest_delta", "smallest_noise_multiplier", "allow_metrics")


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


def accept(folder: Path, grant: Grant, *, train: Path | None = None) -> None:
    """Take the coordinator's grant: ca.crt, the approved key, client.yaml if there is none.

    Everything is checked before anything is written: the grant must be for a key that this folder holds.
    """
    current, following = folder / "node.key", folder / "node.key.next"
    approved = next(
        (
            key
            for key in (following, current)
            if key.exists()
            and fingerprint(make_request(grant.site, require_private(key).read_bytes()).public_key) == grant.key
        ),
        None,
    )
    if approved is None:
        raise SettingsError(
            f"the grant is for the key {grant.key}, which {folder} does not hold; send request.json again and ask "
            "for a new grant."
        )
    if approved == following:
        following.replace(current)
    write_atomically(folder / "ca.crt", grant.ca_certificate.encode())
    config = folder / "client.yaml"
    if not config.exists():
        values = {
            "site": grant.site,
            "coordinator": grant.address,
            "data": {"train": str(train or "train.csv")},
            "policy": "policy.yaml",
        }
        write_atomically(config, (yaml_text(values) + MORE).encode())
    policy = folder / "policy.yaml"
    if not policy.exists():
        write_atomically(policy, (yaml_text({"coordinators": [grant.coordinator]}) + defaults()).encode())


def defaults() -> str:
    """The policy's own, as comments: what holds where nothing is written."""
    lines = [f"# {name}: {json.dumps(Policy.model_fields[name].default)}" for name in STRICT]
    return "\n".join(["# No coordinator can change what is written here. What is not written is strict:", *lines, ""])
