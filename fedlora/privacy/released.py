"""The output of private steps, observed: the gradients that any optimiser of this process is given.

That is the most that anybody could see of a step: the coordinator sees an update, the sum of several, and others less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from fedlora.privacy.canaries import HELD_OUT, REST, Planted
from fedlora.privacy.gaussian_audit import Claim, Seen


@contextmanager
def watching(see: Callable[[dict[Tensor, Tensor]], None]) -> Iterator[None]:
    """Call `see` with every parameter's gradient before each optimiser step."""

    def look(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        every = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        see({parameter: parameter.grad for parameter in every if parameter.grad is not None})

    handle = register_optimizer_step_pre_hook(look)
    try:
        yield
    finally:
        handle.remove()


@dataclass(frozen=True)
class Held:
    """One step's output at the held-out values of one parameter: noise alone, if all is well."""

    parameter: str
    square: float
    values: int


class Scores:
    """Every step's scores of all canaries, in the units of what was released."""

    def __init__(self, planted: Planted, canaries: int) -> None:
        self._planted = planted
        self._canaries = canaries
        self._steps: list[tuple[Tensor, list[Held]]] = []

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def held_out(self) -> int:
        """Held-out values of the first step."""
        return sum(held.values for held in self._steps[0][1])

    def see(self, released: dict[Tensor, Tensor]) -> None:
        """Score what a step released; a step of what no engine was attached to is none of these."""
        planted, layout = self._planted, self._planted.layout
        if layout is None or not all(parameter in released for parameter in planted.parameters):
            return
        scores_m = torch.zeros(self._canaries, dtype=torch.float64)
        noise = []
        for place, (name, parameter) in enumerate(zip(planted.names, planted.parameters, strict=True)):
            values = released[parameter].detach().double().flatten().cpu()
            owners, directions = layout.owners[place], layout.directions[place].double()
            mine = owners > REST
            scores_m.index_add_(0, owners[mine], values[mine] * directions[mine])
            held_out = values[owners == HELD_OUT]
            noise.append(Held(name, float(held_out.square().sum()), len(held_out)))
        self._steps.append((scores_m, noise))

    def against(self, claims: Sequence[Claim], included: Sequence[bool]) -> Seen:
        """The steps in the units of their claims, one each."""
        scores, noise = [], dict[str, tuple[float, int]]()
        for claim, (scores_m, step) in zip(claims, self._steps, strict=True):
            scores.append(scores_m * (claim.batch / claim.clip))
            scale = claim.batch / (claim.clip * claim.noise_multiplier)
            for held in step:
                squares, values = noise.get(held.parameter, (0.0, 0))
                noise[held.parameter] = (squares + held.square * scale**2, values + held.values)
        return Seen(claims, torch.stack(scores), torch.tensor(list(included)), noise)
