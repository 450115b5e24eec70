"""Whether a model computes packed rows as it does each text by itself: found by letting it, before it sees any data.

Attention is closed between texts of a row by what transformers makes of their positions. A model without such masks (a
state-space model, one whose positions are no argument) would mix them, in silence.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fedlora.config import ModelSettings
from fedlora.models.base import autocast, computes_in
from fedlora.privacy.quiet import without_randomness
from fedlora.settings import SettingsError
from fedlora.tasks.base import Packs
from fedlora.tasks.registry import task_of

ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""Relative, of a mean over tokens. What another text's tokens or another position changes is 1e-3 and far more on a
trained model."""

_EXACT: WeakKeyDictionary[nn.Module, set[ModelSettings]] = WeakKeyDictionary()
"""Models that have been found to be."""


def require_exact_packing(model: nn.Module, *, on: ModelSettings, padding: int) -> None:
    """SettingsError for a task or a model that packing would change."""
    known = _EXACT.setdefault(model, set())
    if on in known:
        return
    task = task_of(on)
    if not isinstance(task, Packs):
        raise SettingsError(f"train.packing: model.task={on.task} does not pack its examples; remove it.")
    why = packs_otherwise(model, task, on=on, padding=padding)
    if why:
        raise SettingsError(
            f"train.packing: {type(model).__name__} does not compute several texts of one row as it computes each by "
            f"itself ({why}); remove train.packing, or choose another model."
        )
    known.add(on)


def packs_otherwise(model: nn.Module, task: Packs, *, on: ModelSettings, padding: int) -> str:
    """How far invented texts' losses are off, short and long ones in a row; empty where they are not."""
    items = task.sample(model, longest=on.max_tokens, padding=padding)

    def losses(*, together: bool) -> Tensor:
        if together:
            batches = [task.pack(items, padding=padding)]
        else:
            batches = [task.collate([item], padding=padding) for item in items]
        placed = [{name: values.to(on.device) for name, values in batch.items()} for batch in batches]
        return torch.cat([task.losses(model, batch) for batch in placed]).float()

    try:
        with without_randomness(model), torch.no_grad(), autocast(on):
            alone, together = losses(together=False), losses(together=True)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
    off = float(((together - alone).abs() / alone.abs().clamp(min=1e-3)).max())
    return "" if off <= ROUNDING[computes_in(on)] else f"the losses of invented texts differ by {off:.1e} of them"
