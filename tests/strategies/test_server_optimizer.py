"""Server optimisers against the paper's recursion, written out; refusals; a whole run."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from fedlora.config import Recipe
from fedlora.settings import SettingsError, parse
from strategies.compatibility import case_of, require_compatible
from strategies.registry import STRATEGIES, build
from tests.federations import run
from tests.strategies.examples import start, updates_for

ALLOWED = sorted(name for name in STRATEGIES if build(name, {}).traits.fixed_coordinates)


def optimised(name: str, optimizer: str, **settings: float):
    return build(name, {"server_optimizer": {"name": optimizer, **settings}})


@pytest.mark.parametrize("optimizer", ["fedavgm", "fedadam", "fedyogi"])
@pytest.mark.parametrize("name", ALLOWED)
def test_three_rounds_follow_the_papers_recursion(name, optimizer):
    plain, strategy = build(name, {}), optimised(name, optimizer, lr=0.5, beta1=0.8, beta2=0.9, tau=0.01)
    state = start(strategy)
    moments: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for number in (1, 2, 3):
        updates = updates_for(strategy, state, round_number=number)
        mean = plain.step(state, plain.combine(updates)).adapter.tensors()
        expected = {}
        for key, before in state.adapter.tensors().items():
            delta = mean[key] - before
            if not delta.any():
                expected[key] = before
                continue
            m, v = moments.get(key, (torch.zeros_like(delta), torch.full_like(delta, 0.01**2)))
            if optimizer == "fedavgm":
                m = 0.8 * m + delta
                step = m
            else:
                m = 0.8 * m + 0.2 * delta
                grown = 0.9 * v + 0.1 * delta**2
                v = grown if optimizer == "fedadam" else v - 0.1 * delta**2 * torch.sign(v - delta**2)
                step = m / (v.sqrt() + 0.01)
            moments[key] = (m, v)
            expected[key] = before + 0.5 * step
        state = strategy.step(state, strategy.combine(updates))
        assert_close(state.adapter.tensors(), expected, rtol=0, atol=1e-10)


def test_momentum_of_zero_and_rate_one_is_the_plain_mean():
    plain, strategy = build("fedit", {}), optimised("fedit", "fedavgm", lr=1.0, beta1=0.0)
    state = start(plain)
    updates = updates_for(plain, state)
    assert_close(
        strategy.step(state, strategy.combine(updates)).adapter.tensors(),
        plain.step(state, plain.combine(updates)).adapter.tensors(),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("name", sorted(STRATEGIES.keys() - set(ALLOWED)))
def test_a_strategy_that_changes_its_coordinates_is_refused_with_the_reason(name):
    options = {"name": name, "server_optimizer": {"name": "fedadam"}}
    with pytest.raises(SettingsError, match=rf"keep their coordinates from round to round; {name} re-factors"):
        require_compatible(case_of(parse(Recipe, {"strategy": options})))


def test_a_wrong_setting_is_named():
    with pytest.raises(SettingsError, match=r"strategy\.server_optimizer\.beta1"):
        optimised("fedit", "fedadam", beta1=1.5)


def test_a_run_with_a_server_optimiser_resumes_to_the_same_bits(recipe, tmp_path):
    settings = recipe("strategy.name=ffa", "strategy.server_optimizer={name: fedadam, lr: 0.1}")
    whole = run(settings, tmp_path / "whole")
    assert whole["aggregation_error_max"] is None
    run(settings.model_copy(update={"rounds": settings.rounds.model_copy(update={"count": 1})}), tmp_path / "halves")
    (tmp_path / "halves/config.yaml").write_text((tmp_path / "whole/config.yaml").read_text())
    run(settings, tmp_path / "halves", resume=True)
    adapters = [tmp_path / name / "adapter/adapter_model.safetensors" for name in ("whole", "halves")]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()
