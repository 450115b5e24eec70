"""trial.json: what a run is one of, where it is one of several, and what was changed of its recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fedlora.files import write_atomically

FILE = "trial.json"


@dataclass(frozen=True)
class Trial:
    """A run as one of a comparison. Its seed stands in the recipe."""

    group: str | None = None
    """The comparison; None where the run is one by itself."""
    method: str | None = None
    """What is compared: runs that differ in settings that are swept, and in their seed, share it."""
    changed: Mapping[str, Any] = field(default_factory=dict)
    """What was set or changed of the recipe's file, values by dotted names; neither its name nor its seed."""


def write_trial(folder: Path, trial: Trial) -> None:
    write_atomically(folder / FILE, json.dumps(asdict(trial), indent=1).encode())


def read_trial(folder: Path) -> Trial | None:
    """None where nothing is known, or nothing that can be read: it only helps whoever looks, and stops no run."""
    try:
        found = json.loads((folder / FILE).read_bytes())
        return trial_in(found) if isinstance(found, dict) else None
    except (OSError, ValueError, RecursionError):
        return None


def trial_in(values: Mapping[str, Any]) -> Trial | None:
    """The trial of a summary, or of the file itself; None in those of before there was one."""
    if not isinstance(values.get("changed"), Mapping):
        return None
    names = {name: None if values.get(name) is None else str(values[name]) for name in ("group", "method")}
    return Trial(names["group"], names["method"], dict(values["changed"]))


def told(folder: Path) -> dict[str, Any]:
    """Its keys in summary.json; none where nothing is known."""
    trial = read_trial(folder)
    return {} if trial is None else asdict(trial)
