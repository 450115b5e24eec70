"""Local optimisers that are not fedlora's: any of torch's, or a plug-in's, built from what `train:` says.

    torch.optim:RMSprop     a class of torch.optim.Optimizer
    my.module:warm_adam     anything that makes one of (groups, lr=...)

What it takes by name (momentum, weight_decay) it is given where the recipe sets it; a setting that it does not take is
refused. Under privacy it sees clipped and noised gradients and nothing of the data, whatever it does with them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from fedlora.plugins.loading import load_plug_in, wrong_kind
from fedlora.plugins.names import Kind
from fedlora.settings import SettingsError

if TYPE_CHECKING:
    from torch.optim import Optimizer

PASSED_ON = ("momentum", "weight_decay")
"""Settings of `train:` that an optimiser may take, besides the learning rate."""


MADE = "what makes a torch.optim.Optimizer of (groups, lr=...)"


class Steps(Protocol):
    """What of `train:` an optimiser is built from."""

    @property
    def optimizer(self) -> str: ...
    @property
    def lr(self) -> float: ...
    @property
    def momentum(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...


def plug_in_optimizer(groups: Sequence[Mapping[str, Any]], settings: Steps) -> Optimizer:
    """The optimiser over these groups of parameters, each with a learning rate of its own; SettingsError otherwise."""
    from torch.optim import Optimizer

    make, taken = maker_of(settings)
    built = make(list(groups), lr=settings.lr, **taken)
    if not isinstance(built, Optimizer):
        raise wrong_kind(Kind.OPTIMIZER, settings.optimizer, built, MADE)
    return built


def maker_of(settings: Steps) -> tuple[Any, dict[str, float]]:
    """What makes the optimiser, and the settings that it is given; SettingsError for one that it does not take."""
    make = load_plug_in(Kind.OPTIMIZER, settings.optimizer)
    if not callable(make):
        raise wrong_kind(Kind.OPTIMIZER, settings.optimizer, make, MADE)
    takes = inspect.signature(make).parameters
    if "lr" not in takes and not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in takes.values()):
        raise wrong_kind(Kind.OPTIMIZER, settings.optimizer, make, MADE)
    asked = {name: value for name in PASSED_ON if (value := getattr(settings, name))}
    for name, value in asked.items():
        if name not in takes:
            raise SettingsError(
                f"train.{name}={value:g}: the optimiser {settings.optimizer} takes no {name}; remove train.{name}."
            )
    return make, asked
