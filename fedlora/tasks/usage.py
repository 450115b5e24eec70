"""How a fine-tuned model is loaded and used without fedlora: what an export's README.md says of it, task by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Usage:
    """One task's way, by transformers and PEFT alone.

    Guarantee: `lines_for` is a Python script. Run as it is, in the folder's place, it prints what the fine-tuned model
    answers to the examples that it begins with; a reader puts others in their place.
    """

    template: str
    """The script, for `str.format`: {folder}, {base} and {labels} as Python writes them, {dtype}, {max_tokens}."""

    peft_task: str | None = None
    """PEFT's `task_type`, by which its AutoPeftModelFor... know the folder; None where none of them loads the task."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else of the task a reader has to know, for the export's fedlora.json."""

    def lines_for(self, *, folder: str, base: str, dtype: object, labels: Sequence[str], max_tokens: int) -> str:
        """The script for one export."""
        return self.template.format(
            folder=repr(folder), base=repr(base), dtype=dtype, labels=list(labels), max_tokens=max_tokens
        )
