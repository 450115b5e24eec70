"""The coordinator's report about itself, in a file for the dashboard, which is another process and may run as another
user."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from fedlora.files import write_atomically
from fedlora.processes.duties import Condition

FILE = "coordinator.json"
EVERY_S = 30.0
"""Longest time between two reports, in seconds; changes are written at once."""
LATE_S = 4 * EVERY_S
"""Age of a report, in seconds, after which the coordinator is not running or cannot write."""


@dataclass(frozen=True)
class Said:
    """The last report."""

    at: float
    """Unix time."""
    wrong: Mapping[str, Condition]
    """The problems, by name."""


def write_said(folder: Path, conditions: Mapping[str, Condition], *, at: float) -> None:
    wrong = {name: asdict(condition) for name, condition in sorted(conditions.items()) if not condition.ok}
    write_atomically(folder / FILE, json.dumps({"at": at, "wrong": wrong}, indent=2).encode())


def read_said(folder: Path) -> Said | None:
    """None where no coordinator has said anything, or it cannot be read."""
    try:
        values = json.loads((folder / FILE).read_text(encoding="utf-8"))
        wrong = {str(name): Condition(False, str(c["why"]), float(c["since"])) for name, c in values["wrong"].items()}
        return Said(float(values["at"]), wrong)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
