"""Plans, and the mechanism behind them: how noise in ΔW grows with A frozen and with both factors trained."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fedlora.config import TrainSettings
from fedlora.config.privacy import PrivacySettings
from fedlora.privacy.accounting import Event, epsilon
from fedlora.privacy.engine import PrivateEngine
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import SeededSource
from fedlora.privacy.plan import Shape, plan_client, releases

M, N, R, LR = 24, 20, 4, 0.5


class Pair(nn.Module):
    """ΔW = B A, alone."""

    def __init__(self) -> None:
        super().__init__()
        stream = torch.Generator().manual_seed(0)
        self.A, self.B = nn.Linear(N, R, bias=False), nn.Linear(R, M, bias=False)
        with torch.no_grad():
            self.A.weight.copy_((2 * torch.rand(R, N, generator=stream) - 1) / math.sqrt(N))
            self.B.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.B(self.A(x))


def noise_in_delta_w(steps: int, *, both: bool, seed: int) -> float:
    """‖B A‖ after `steps` private steps that drew nobody: noise alone, through the engine."""
    model = Pair()
    model.A.weight.requires_grad_(both)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=LR)
    mechanism = Mechanism(rate=1e-12, noise_multiplier=1.0, clip=1.0, steps=steps, expected_batch=1.0)
    with PrivateEngine(model, mechanism, examples=1, source=SeededSource(seed)) as engine:
        for _ in range(steps):
            engine.step(lambda indices: pytest.fail("nobody was to be drawn"))
            optimizer.step()
    return float((model.B.weight @ model.A.weight).detach().norm())


def mean_square(steps: int, *, both: bool) -> float:
    squares = [noise_in_delta_w(steps, both=both, seed=seed) ** 2 for seed in range(6)]
    return math.sqrt(sum(squares) / len(squares))


def test_noise_grows_like_the_root_of_the_steps_with_a_frozen_and_linearly_with_both_trained():
    frozen = [mean_square(steps, both=False) for steps in (20, 100)]
    both = [mean_square(steps, both=True) for steps in (20, 100)]
    assert frozen[1] / frozen[0] == pytest.approx(math.sqrt(5), rel=0.15)
    assert both[1] / both[0] == pytest.approx(5, rel=0.15)
    assert both[1] / frozen[1] > 10


@pytest.mark.parametrize("steps", [1, 20, 100])
def test_the_plans_formulas_are_what_the_engine_does(steps):
    shape = Shape(m=M, n=N, r=R, r_core=R, lr=LR)
    fedit, ffa, _, _ = releases(shape, noise_std=1.0, steps=steps)
    assert mean_square(steps, both=True) == pytest.approx(fedit.noise_after_run, rel=0.15)
    assert mean_square(steps, both=False) == pytest.approx(ffa.noise_after_run, rel=0.15)


def test_what_each_strategy_sends():
    sent = {
        item.strategy: item.values for item in releases(Shape(m=6, n=4, r=2, r_core=3, lr=LR), noise_std=1.0, steps=1)
    }
    assert sent == {"fedit": 20, "ffa": 12, "fedsvd": 12, "fedsb": 9}


def test_the_formulas_are_those_at_the_top_of_the_file():
    shape = Shape(m=6, n=4, r=2, r_core=3, scale=2.0, lr=0.5)
    found = {item.strategy: item for item in releases(shape, noise_std=0.25, steps=4)}
    for steps, name in ((1, "noise_after_one_step"), (4, "noise_after_run")):
        moved = steps * (0.5 * 0.25) ** 2
        squares = {
            "fedit": moved * 6 * (2 / 3 + moved * 2 * 4),
            "ffa": moved * 6 * 2 / 3,
            "fedsvd": moved * 6 * 2,
            "fedsb": moved * 3 * 3,
        }
        for strategy, square in squares.items():
            assert getattr(found[strategy], name) == pytest.approx(2.0 * math.sqrt(square), rel=1e-12)


def train(batch: int, steps: int) -> TrainSettings:
    return TrainSettings(batch_size=batch, steps=steps)


def test_a_plan_ends_at_its_target_and_says_what_one_more_round_costs():
    plan = plan_client(2400, privacy=PrivacySettings(epsilon=6.0), train=train(64, 10), rounds=50)
    epsilons = [figure for _, figure in plan.epsilon_by_round]
    assert (plan.public_examples, plan.rate) == (2000, 0.032)
    assert epsilons == sorted(epsilons)
    assert plan.epsilon_by_round[-1][0] == 50
    assert 5.95 < epsilons[-1] <= 6.0
    assert 0 < plan.one_more_round < 0.2


def test_every_figure_of_a_plan_is_the_accountants():
    plan = plan_client(2400, privacy=PrivacySettings(epsilon=6.0), train=train(64, 10), rounds=51)

    def after(rounds: int) -> float:
        return epsilon([Event(rate=0.032, noise_multiplier=plan.noise_multiplier, steps=10 * rounds)], delta=1e-5)

    assert plan.epsilon_by_round == tuple((count, after(count)) for count in (1, 5, 13, 26, 38, 51))
    assert plan.one_more_round == after(52) - after(51)
    short = plan_client(2400, privacy=PrivacySettings(noise_multiplier=1.0), train=train(64, 10), rounds=3)
    assert [count for count, _ in short.epsilon_by_round] == [1, 2, 3]


def test_small_clients_need_more_noise():
    small, large = (
        plan_client(n, privacy=PrivacySettings(epsilon=3.0), train=train(32, 10), rounds=10) for n in (100, 10_000)
    )
    assert small.noise_multiplier > 3 * large.noise_multiplier


def test_delta_must_be_below_one_over_the_examples():
    with pytest.raises(ValueError, match=r"delta 0\.01 is not below 1 / 120 \(for 100 examples\)"):
        plan_client(100, privacy=PrivacySettings(epsilon=3.0, delta=0.01), train=train(10, 1), rounds=1)


def test_a_plan_with_spare_rounds_is_calibrated_for_them_and_says_what_they_cost():
    privacy = PrivacySettings(epsilon=3.0, spare_rounds=10)
    plan = plan_client(2400, privacy=privacy, train=train(64, 10), rounds=10)
    assert plan.epsilon_by_round[-1][1] < 2.5 < 2.95 < plan.epsilon_at_most <= 3.0
