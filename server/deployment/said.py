"""What a coordinator says of itself, in a file for the dashboard, which is another process, and may be another's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from fedlora.files import write_atomically
from fedlora.processes.duties import Condition

FILE = "coordinator.json"
EVERY_S = 30.0
"""It is written when something changes, and as often when nothing does."""
LATE_S = 4 * EVERY_S
"""A coordinator that has not written for so long is not up, or cannot write."""


@dataclass(frozen=True)
class Said:
    """The last that was said."""

    at: float
    """Unix time."""
    wrong: Mapping[str, Condition]
    """What is not well, by name."""


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
