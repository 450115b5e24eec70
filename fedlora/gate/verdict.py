"""gate.json beside an adapter: what was looked at, what it came to, whether the adapter is held; and who went past it.

Guarantee: it is of the tensors that it names by hash. An adapter that is held, or was changed since, is exported only
with a reason, which stands in the file before anything is exported.
"""

from __future__ import annotations

import getpass
import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from fedlora.files import write_atomically
from fedlora.settings import Settings, SettingsError, parse

FILE = "gate.json"
MEANT = ("adapter_config.json", "*.safetensors")
"""The files of a folder that say what the adapter is."""


class Check(Settings):
    """One thing that was looked at."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    name: str
    passed: bool
    said: str
    """What was found and what was allowed, for a person."""
    figures: Mapping[str, float | int | str | None] = {}
    """None: no number."""
    thresholds: Mapping[str, float] = {}


class Override(Settings):
    """Somebody passed on what was held."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    who: str
    """The account on the machine that exported."""
    when: str
    why: str
    held_by: tuple[str, ...]
    """The checks that it went past."""


class Gate(Settings):
    """Everything that has been looked at of one adapter."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    adapter: str
    """The tensors' hash (`hash_of`)."""
    when: str
    checks: tuple[Check, ...]
    overrides: tuple[Override, ...] = ()
    """Oldest first."""

    @property
    def held_by(self) -> tuple[str, ...]:
        """The checks that were not passed."""
        return tuple(check.name for check in self.checks if not check.passed)

    def as_json(self) -> dict[str, Any]:
        return {"passed": not self.held_by, "held_by": list(self.held_by), **self.model_dump(mode="json")}

    def write(self, folder: Path) -> None:
        text = json.dumps(self.as_json(), indent=2, ensure_ascii=False, allow_nan=False)
        write_atomically(folder / FILE, f"{text}\n".encode())


def hash_of(folder: Path) -> str:
    """Of an adapter's tensors and their scale, whatever else lies beside them."""
    digest = hashlib.sha256()
    for file in sorted({file for pattern in MEANT for file in folder.glob(pattern)}):
        content = file.read_bytes()
        digest.update(f"{file.name} {len(content)} ".encode() + content)
    return digest.hexdigest()


def now() -> str:
    """In UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def gate_in(folder: Path) -> Gate | None:
    """None where nobody has looked; SettingsError for a damaged file."""
    return read_gate(folder / FILE) if (folder / FILE).exists() else None


def read_gate(file: Path) -> Gate:
    """SettingsError where it is none."""
    try:
        return parse(Gate, json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise SettingsError(
            f"{file} cannot be read ({type(error).__name__}); run `fedlora gate` again, which writes one."
        ) from None


def joined(folder: Path, checks: Iterable[Check]) -> Gate:
    """These checks with the earlier ones of the same tensors: one of the same name is replaced, none is forgotten."""
    before = gate_in(folder)
    same = before is not None and before.adapter == hash_of(folder)
    kept = {check.name: check for check in before.checks} if before and same else {}
    kept |= {check.name: check for check in checks}
    return Gate(
        adapter=hash_of(folder), when=now(), checks=tuple(kept.values()), overrides=before.overrides if before else ()
    )


def taken_from(file: Path, folder: Path) -> tuple[Check, ...]:
    """The checks that somebody else made of the same adapter, as at a site; SettingsError where it is another one."""
    gate = read_gate(file)
    if gate.adapter != hash_of(folder):
        raise SettingsError(f"{file} is of another adapter than {folder}: their tensors differ.")
    return gate.checks


def opened_gate(folder: Path, reason: str | None) -> Gate | None:
    """What stands beside an adapter that may be passed on, None where nobody has looked at it; with a reason for one
    that is held, the reason in it. Writes nothing. SettingsError for one that is held without a reason."""
    gate = gate_in(folder)
    if gate is None:
        return None
    stale = gate.adapter != hash_of(folder)
    if not stale and not gate.held_by:
        return gate
    if reason is None:
        raise SettingsError(refusal(folder, gate, stale=stale))
    past = ("changed since",) if stale else gate.held_by
    override = Override(who=account(), when=now(), why=reason, held_by=past)
    return gate.model_copy(update={"overrides": (*gate.overrides, override)})


def refusal(folder: Path, gate: Gate, *, stale: bool) -> str:
    if stale:
        return f"{folder} has changed since the gate looked at it; run `fedlora gate` again, or give --override REASON."
    said = " ".join(check.said for check in gate.checks if not check.passed)
    return (
        f"the gate holds {folder}: {said} Mend it and run `fedlora gate` again; or --override REASON, which is written "
        f"into {FILE} and onto the card, with your name."
    )


def account() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container whose user has no name
        return "unknown"
