"""What the lines in an exported adapter's README.md compute: plain transformers and PEFT, as a person pastes them."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pasted:
    """What the lines left behind."""

    logits_nc: Tensor
    printed: str
    without_adapter_nc: Tensor
    """The same lines with the adapter switched off: the head on the base."""


def as_its_readme_says(adapter: Path, texts: Sequence[str], *, base: str) -> Pasted:
    """Run the README's lines as they are, on `texts` in the place of the two that it has."""
    names, printed = names_of_its_readme(adapter, base=base, texts=list(texts))
    logits_nc = names["logits"]
    lines = lines_of(adapter)
    with names["model"].disable_adapter(), contextlib.redirect_stdout(io.StringIO()):
        exec(lines[lines.index("batch = ") :], names)  # noqa: S102 - as above
    return Pasted(logits_nc, printed, names["logits"])


def names_of_its_readme(adapter: Path, **given: object) -> tuple[dict[str, Any], str]:
    """Run the README's lines in the folder's place, with these values in the place of theirs: every name that they
    leave behind, and the first line that they print."""
    lines = lines_of(adapter)
    for name, value in {"folder": str(adapter), **given}.items():
        lines, changed = re.subn(rf"(?m)^{name} = .*$", lambda _, value=value, name=name: f"{name} = {value!r}", lines)
        assert changed == 1, name
    names: dict[str, Any] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(lines, names)  # noqa: S102 - the README's own lines are what is tested
    return names, printed.getvalue().partition("\n")[0]


def lines_of(adapter: Path) -> str:
    return (adapter / "README.md").read_text().split("```python\n")[1].split("```")[0]


def distance(one: Tensor, other: Tensor) -> float:
    """Relative, in L2."""
    return float(torch.linalg.vector_norm(one - other) / torch.linalg.vector_norm(other))
