"""What an export says of itself beside its tensors: `fedlora.json`, which another fedlora reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedlora.exports.licences import Terms, terms_of
from fedlora.exports.made import Made
from fedlora.files import write_atomically
from fedlora.gate.verdict import Gate
from fedlora.models.named import NamedBase
from fedlora.tasks.registry import task_named
from fedlora.tasks.usage import Usage

FILE, NOTICE = "fedlora.json", "NOTICE"


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
    made: Made | None = None
    """How the run went; None of an adapter of earlier versions."""
    license: str | None = None
    """What the base's own card says, or a person."""
    gate: Gate | None = None
    """What the publish gate found; None where nobody had it look."""
    scale: float = 1.0
    """How much of what the run learnt the matrices hold: W0 + scale · ΔW."""

    @property
    def terms(self) -> Terms | None:
        """Under which it may be passed on; None where nobody has said."""
        return terms_of(self.base.id, self.license)

    @property
    def usage(self) -> Usage:
        return task_named(self.task).usage

    def write(self, folder: Path, **more: object) -> None:
        """fedlora.json, with `more` of what the form is."""
        own: dict[str, Any] = {"task": self.task, "labels": list(self.labels), "max_tokens": self.max_tokens}
        base = asdict(self.base)
        made = None if self.made is None else self.made.model_dump(mode="json")
        gate = None if self.gate is None else self.gate.as_json()
        said = {"privacy": self.privacy, "made": made, "license": self.license, "gate": gate}
        part = {} if self.scale == 1 else {"scale": self.scale}
        content = {**own, **self.usage.facts, "base": base, **more, **said, **part}
        write_atomically(folder / FILE, json.dumps(content, indent=2).encode())

    def write_notice(self, folder: Path) -> None:
        """The file that the base's terms want in every copy, where they want one."""
        if self.terms is not None and self.terms.notice:
            write_atomically(folder / NOTICE, f"{self.terms.notice}\n".encode())
