"""What an export says of itself beside its tensors: `fedlora.json`, which another fedlora reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedlora.files import write_atomically
from fedlora.models.named import NamedBase
from fedlora.tasks.registry import task_named
from fedlora.tasks.usage import Usage

FILE = "fedlora.json"


@dataclass(frozen=True)
class About:
    """Of one adapter, whatever form it is written in."""

    task: str
    """A name in `fedlora.tasks.registry`."""
    labels: tuple[str, ...]
    max_tokens: int
    base: NamedBase
    architecture: Mapping[str, str]
    """PEFT's auto_mapping: by which class its AutoPeftModel loads the base."""
    transposed: bool = False
    """PEFT's fan_in_fan_out: whether the adapted layers are transformers' Conv1D."""
    privacy: str | None = None
    """A paragraph on what the run has cost the sites' data."""

    @property
    def usage(self) -> Usage:
        return task_named(self.task).usage

    def write(self, folder: Path, **more: object) -> None:
        """fedlora.json, with `more` of what the form is."""
        own: dict[str, Any] = {"task": self.task, "labels": list(self.labels), "max_tokens": self.max_tokens}
        base = asdict(self.base)
        content = {**own, **self.usage.facts, "base": base, **more, "privacy": self.privacy}
        write_atomically(folder / FILE, json.dumps(content, indent=2).encode())
