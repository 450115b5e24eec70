"""One optimiser step after another: the terms, the clip of the whole, the rate, the move.

    loss's gradient (under privacy: the noised one)  ─►  + terms  ─►  clip (without privacy)  ─►  optimiser at its rate

The gradient of the loss is in `p.grad` when a step is taken, and nothing is left in it afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from client.steps.optimizer import make_optimizer, state_of, with_state
from client.steps.turn import Turn
from client.terms import Term, terms_of
from fedlora.config import TrainSettings
from fedlora.config.schedule import share_at

Live = Mapping[str, nn.Parameter]
"""What trains, by flat name."""


@dataclass(frozen=True)
class Pace:
    """What a round's steps are besides their gradients."""

    turn: Turn
    sent: frozenset[str]
    """Names of what is sent after the round: terms compare it with what was received. The rest stays at the site."""
    moments: Mapping[str, Tensor]
    """The optimiser's state to begin with (`client.steps.optimizer`); empty to begin afresh."""


class Stepper:
    """The steps of one round on a live model."""

    def __init__(self, model: nn.Module, live: Live, settings: TrainSettings, pace: Pace, *, steps: int) -> None:
        """`steps`: how many there will be."""
        self._live = live
        self._settings, self._turn, self._steps = settings, pace.turn, steps
        self._terms: list[Term] = terms_of(settings, [p for name, p in live.items() if name in pace.sent])
        self._optimizer = with_state(make_optimizer(model, list(live.values()), settings), live, pace.moments)
        self._rates = [group["lr"] for group in self._optimizer.param_groups]
        self._at = 0

    def step(self, *, most_norm: float | None = None) -> None:
        """`most_norm`: clip the gradient to it, terms included."""
        for term in self._terms:
            term.add()
        if most_norm is not None:
            self._clip(most_norm)
        turn = self._turn
        share = share_at(self._settings, number=turn.number, rounds=turn.rounds, step=self._at, steps=self._steps)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = share * rate
        self._optimizer.step()
        self._end()

    def skip(self) -> None:
        """Take no step by this gradient; the next has the next one's rate."""
        self._end()

    def _clip(self, most_norm: float) -> None:
        torch.nn.utils.clip_grad_norm_(self._live.values(), most_norm)

    def _end(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        self._at += 1

    @property
    def moments(self) -> dict[str, Tensor]:
        """The optimiser's state, to go on from in the next round; empty where every round begins afresh."""
        return state_of(self._optimizer, self._live) if self._settings.optimizer_state == "keep" else {}
