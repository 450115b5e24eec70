"""What the lines in an exported adapter's README.md compute: plain transformers and PEFT, as a person pastes them."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pasted:
    """What the lines left behind."""

    logits_nc: Tensor
    printed: str
    without_adapter_nc: Tensor
    """The same lines with the adapter switched off: the head on the base."""


def as_its_readme_says(adapter: Path, texts: Sequence[str]) -> Pasted:
    """Run the README's lines as they are, on `texts` in the place of the two that it has."""
    block = (adapter / "README.md").read_text().split("```python\n")[1].split("```")[0]
    lines, changed = re.subn(r"(?m)^texts = .*$", lambda _: f"texts = {list(texts)!r}", block)
    assert changed == 1
    names: dict = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(lines, names)  # noqa: S102 - the README's own lines are what is tested
        logits_nc = names["logits"]
        with names["model"].disable_adapter():
            exec(lines[lines.index("batch = ") :], names)  # noqa: S102 - as above
    return Pasted(logits_nc, printed.getvalue().splitlines()[0], names["logits"])


def distance(one: Tensor, other: Tensor) -> float:
    """Relative, in L2."""
    return float(torch.linalg.vector_norm(one - other) / torch.linalg.vector_norm(other))
