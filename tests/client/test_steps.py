"""A round's steps against a loop by hand, in float64: rates, FedProx, the clip and both together; and under noise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from client.steps.order import batches_of
from client.steps.stepper import Pace
from client.steps.turn import Turn
from client.terms import TERMS, terms_of
from client.training import Protection, train_adapter, train_adapter_privately
from fedlora.adapters import set_trainable
from fedlora.adapters.inject import inject
from fedlora.adapters.live import parameters_of
from fedlora.config import AdapterSettings, ModelSettings, TrainSettings
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import SeededSource
from fedlora.updates import Factor
from strategies.registry import STRATEGIES, build
from tests.privacy.architectures import loaded
from tests.privacy.rounds import examples
from tests.privacy.tasks import task

TURN = Turn(seed=0, client="a", number=2, rounds=3)
ROWS = examples(20)
ON = ModelSettings(id="x", max_tokens=16)
SETTINGS = {
    "plain": {},
    "proximal": {"proximal_mu": 0.7},
    "cosine": {"schedule": "cosine", "warmup": 1, "min_lr_rate": 0.5},
    "steps": {"schedule": "linear", "schedule_over": "steps", "head_lr": 0.9},
    "together": {"proximal_mu": 0.7, "schedule": "cosine", "max_grad_norm": 0.05, "batch_size": 6},
    "epochs": {"proximal_mu": 0.7, "steps": None, "local_epochs": 1, "batch_size": 6},
}
SHARES = {
    "cosine": [1.0] * 4,
    "steps": [1 - 0.9 * unit / 11 for unit in (4, 5, 6, 7)],
    "together": [0.55] * 4,
}
"""Of the second of three rounds, step by step; 1 where not said."""


def adapted(model: nn.Module, strategy: str) -> tuple[nn.Module, tuple[Factor, ...], frozenset[Factor]]:
    """The model in float64 with the strategy's kind of adapter, away from zero; what trains, and what of it is sent."""
    chosen = build(strategy, {})
    sent = chosen.trains(1)
    inject(model, AdapterSettings(r=2, alpha=2, kind="lora_xs" if Factor.R in sent else "lora"))
    for number, parameter in enumerate(parameters_of(model, Factor).values()):
        nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(number))
    factors = tuple(sorted(sent | chosen.traits.keeps))
    set_trainable(model.double(), factors)
    return model, factors, sent


def by_hand(
    model: nn.Module, live: Any, sent: Any, train: TrainSettings, shares: list[float]
) -> dict[str, torch.Tensor]:
    """SGD on the mean loss plus μ/2 Σ (w - w_received)² over what is sent, differentiated by torch as one loss."""
    received = {name: parameter.detach().clone() for name, parameter in live.items()}
    for share, rows in zip(shares, batches_of(train, len(ROWS), TURN), strict=True):
        losses = ROWS.task.losses(model, ROWS.batch(rows)).mean()
        pull = sum((live[name] - received[name]).square().sum() for name in sent)
        gradients = torch.autograd.grad(losses + train.proximal_mu / 2 * pull, list(live.values()))
        norm = sum(float(gradient.square().sum()) for gradient in gradients) ** 0.5
        shorter = min(1.0, (train.max_grad_norm or norm) / (norm + 1e-6)) if train.max_grad_norm else 1.0
        with torch.no_grad():
            for (name, parameter), gradient in zip(live.items(), gradients, strict=True):
                rate = (train.head_lr or train.lr) if "/" in name else train.lr
                parameter -= share * rate * shorter * gradient
    return {name: parameter.detach().clone() for name, parameter in live.items()}


@pytest.mark.parametrize(
    ("strategy", "asked"), [*((name, "together") for name in sorted(STRATEGIES)), *(("fedit", one) for one in SETTINGS)]
)
def test_a_round_is_the_loop_by_hand_whatever_a_strategy_trains(tiny_bert, strategy, asked):
    model, factors, sent = adapted(tiny_bert, strategy)
    train = TrainSettings(**{"optimizer": "sgd", "lr": 0.5, "batch_size": 8, "steps": 4, **SETTINGS[asked]})
    live, names = parameters_of(model, factors), frozenset(parameters_of(model, sent))
    start = {name: parameter.detach().clone() for name, parameter in live.items()}
    learned = train_adapter(model, live, ROWS, train, on=ON, pace=Pace(TURN, names, {}))
    found = {name: parameter.detach().clone() for name, parameter in live.items()}
    with torch.no_grad():
        for name, parameter in live.items():
            parameter.copy_(start[name])
    expected = by_hand(model, live, names, train, SHARES.get(asked, [1.0] * 4))
    assert any(not torch.equal(found[name], start[name]) for name in names)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-10, atol=1e-12)
    assert learned.loss is not None
    assert learned.moments == {}, "the next round begins afresh"


def test_the_loss_of_a_round_is_the_mean_over_its_rows(tiny_bert):
    """Of three batches of eight, eight and four: every row counts the same."""
    model, factors, _ = adapted(tiny_bert, "fedit")
    train = TrainSettings(optimizer="sgd", lr=1e-12, batch_size=8, local_epochs=1)
    live = parameters_of(model, factors)
    with torch.no_grad():
        mean = float(ROWS.task.losses(model, ROWS.batch(range(len(ROWS)))).mean())
    assert train_adapter(model, live, ROWS, train, on=ON, pace=Pace(TURN, frozenset(), {})).loss == pytest.approx(mean)


def test_where_rate_times_mu_is_one_only_the_last_gradient_is_left(tiny_bert):
    """w - η (g + (w - w₀)/η) = w₀ - η g."""
    model, factors, sent = adapted(tiny_bert, "fedit")
    live = parameters_of(model, factors)
    start = {name: parameter.detach().clone() for name, parameter in live.items()}
    gradients: list[torch.Tensor] = []
    watched = next(iter(live))
    live[watched].register_hook(lambda gradient: gradients.append(gradient.clone()))
    train = TrainSettings(optimizer="sgd", lr=0.5, proximal_mu=2.0, batch_size=8, steps=3)
    train_adapter(model, live, ROWS, train, on=ON, pace=Pace(TURN, frozenset(parameters_of(model, sent)), {}))
    torch.testing.assert_close(live[watched].detach(), start[watched] - 0.5 * gradients[-1], rtol=1e-10, atol=1e-12)


def test_every_term_is_weighed_by_a_setting_that_is_off_when_nobody_asks():
    assert all(getattr(TrainSettings(), name) == 0 for name in TERMS)
    assert terms_of(TrainSettings(), []) == []


class NoExamples:
    """Private steps on which no example is drawn: what moves the parameters is noise, the same for every setting."""

    def __init__(self, folder: Any) -> None:
        self.model, self.parameters, self.on = loaded("bert", folder)
        self.factors = (Factor.A, Factor.B, Factor.DENSE)
        self.start = [parameter.detach().clone() for parameter in self.parameters]

    def moved(self, *, steps: int, clip: float = 1e-2, **settings: Any) -> torch.Tensor:
        """Where the parameters are after so many steps, less where they began, in one row."""
        with torch.no_grad():
            for parameter, value in zip(self.parameters, self.start, strict=True):
                parameter.copy_(value)
        live = parameters_of(self.model, self.factors)
        train = TrainSettings(**{"optimizer": "sgd", "lr": 0.5, "batch_size": 4, "steps": steps, **settings})
        mechanism = Mechanism(rate=1e-12, noise_multiplier=1.0, clip=clip, steps=steps, expected_batch=1.0)
        train_adapter_privately(
            self.model, live, examples(8), train, on=self.on, protection=Protection(mechanism, SeededSource(7)),
            pace=Pace(Turn(0, "a", 1, 2), frozenset(live), {}),
        )  # fmt: skip
        pairs = zip(self.parameters, self.start, strict=True)
        return torch.cat([(parameter.detach() - value).flatten() for parameter, value in pairs])


def test_a_term_comes_after_the_noise_neither_clipped_nor_divided_and_depends_on_no_example(tmp_path):
    """Two steps of noise n₁, n₂: -η (n₁ + n₂) without the term, and η μ (η n₁) back with it."""
    alone = NoExamples(tmp_path)
    first, both = alone.moved(steps=1), alone.moved(steps=2)
    held = alone.moved(steps=2, proximal_mu=1.5)
    torch.testing.assert_close(held, both - 0.5 * 1.5 * first, rtol=1e-4, atol=1e-7)
    assert float(first.norm()) > 0


def test_private_steps_move_at_the_rates_of_the_schedule(tmp_path):
    alone = NoExamples(tmp_path)
    first, both = alone.moved(steps=1), alone.moved(steps=2)
    falling = alone.moved(steps=2, schedule="linear", schedule_over="steps")
    torch.testing.assert_close(falling, first + 0.7 * (both - first), rtol=1e-4, atol=1e-7)


def test_a_schedule_is_over_the_recipe_s_rounds_and_not_over_spare_ones():
    """`Task.rounds` is what a site can be charged for."""
    asked = task(rounds=12, round=3, seed=5, privacy={"epsilon": 3.0, "spare_rounds": 2})
    assert Turn.of(asked, "a") == Turn(seed=5, client="a", number=3, rounds=10)
    assert task(rounds=1, privacy={"epsilon": 3.0, "spare_rounds": 9}).planned_rounds == 1
