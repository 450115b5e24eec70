"""How a fine-tuned model is loaded and used without fedlora: what an export's README.md says of it, task by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Usage:
    """One task's way, by transformers and PEFT alone.

    Guarantee: `script` is Python. Run in the export's folder it prints what the fine-tuned model answers to the
    examples that it begins with; a reader puts others in their place.
    """

    auto: str
    """The class of transformers that loads the model."""

    imports: tuple[str, ...]
    """What `lines` needs besides torch and that class."""

    examples: str
    """A line of Python: what the model is asked."""

    lines: str
    """Python, for `str.format`, from `model`, `folder` and `base` to what is printed. {labels} is a list, {max_tokens}
    a number; {at} stands behind the other arguments of whatever is loaded from `base`, and picks its revision."""

    peft_task: str | None = None
    """PEFT's `task_type`, by which its AutoPeftModelFor... know the folder; None where none of them loads the task."""

    owns_dense: bool = False
    """Whether the modules that train whole are the Auto class's own, so that PEFT's `modules_to_save` can hold them."""

    arguments: str = ""
    """Further arguments of the Auto class, for `str.format`: {outputs} is the number of classes."""

    language_servers: bool = False
    """Whether vLLM, llama.cpp and Ollama compute what the task computes."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else of the task a reader has to know, for the export's fedlora.json."""

    def script(self, loading: Loading, *, labels: Sequence[str], max_tokens: int) -> str:
        """The whole of it for one export."""
        lines = self.lines.format(labels=list(labels), max_tokens=max_tokens, at=loading.at)
        imports = sorted({*loading.imports, *self.imports})
        return "\n".join(["import torch", *imports, "", self.examples, "", loading.lines, lines])


@dataclass(frozen=True)
class Loading:
    """Python that sets `folder`, `base` and `model`."""

    imports: tuple[str, ...]
    lines: str
    at: str = ""
    """See `Usage.lines`."""
