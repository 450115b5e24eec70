"""The audit's arithmetic, and an engine audited where its answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import binom
from torch import nn

from fedlora.privacy.accounting import Event, epsilon
from fedlora.privacy.audit import Guesses, epsilon_lower_bound, guess, p_value
from fedlora.privacy.engine import PrivateEngine
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import SeededSource
from fedlora.settings import SettingsError
from simulations.audit import audit
from simulations.run import prepare
from tests.federations import save_messages, save_tiny_model, tiny_recipe


def test_without_delta_the_p_value_is_the_binomial_tail():
    seen = Guesses(canaries=100, guesses=20, right=18)
    assert p_value(seen, epsilon=math.log(3), delta=0.0) == pytest.approx(binom.sf(17, 20, 0.75))
    assert p_value(seen, epsilon=math.log(3), delta=1e-3) > p_value(seen, epsilon=math.log(3), delta=0.0)


def test_all_right_refutes_up_to_the_known_bound():
    """20 of 20 right: refuted while q^20 <= 0.05, q = e^ε / (1 + e^ε)."""
    q = 0.05 ** (1 / 20)
    bound = epsilon_lower_bound(Guesses(20, 20, 20), delta=0.0)
    assert bound == pytest.approx(math.log(q / (1 - q)), abs=1e-3)


def test_chance_refutes_nothing():
    assert epsilon_lower_bound(Guesses(100, 50, 26), delta=1e-5) == 0.0


def test_guesses_must_be_even_and_few_enough():
    with pytest.raises(ValueError, match="guesses must be even and at most the number of canaries 3, got 4"):
        guess([1.0, 2.0, 3.0], [True, True, False], guesses=4)


def audited(noise_multiplier: float) -> tuple[float, float]:
    """(lower bound, claim) of one engine on 80 examples whose gradients are orthogonal: the easiest to tell apart.

    60 of them are canaries that are in with probability 1/2.
    """
    model = nn.Linear(80, 1, bias=False)
    inputs = torch.eye(80)
    included = (torch.rand(60, generator=torch.Generator().manual_seed(5)) < 0.5).tolist()
    train = torch.tensor([i for i in range(80) if i >= 60 or included[i]])
    mechanism = Mechanism(rate=1.0, noise_multiplier=noise_multiplier, clip=0.5, steps=8, expected_batch=50.0)
    optimizer, scores = torch.optim.SGD(model.parameters(), lr=1e-3), torch.zeros(60, dtype=torch.float64)
    with PrivateEngine(model, mechanism, examples=len(train), source=SeededSource(3)) as engine:
        for _ in range(8):
            engine.step(lambda indices: model(inputs[train[indices]]).squeeze(1))
            scores += engine.alignment(torch.arange(60), lambda indices: model(inputs[indices]).squeeze(1))
            optimizer.step()
    found = guess(scores.tolist(), included, guesses=30)
    claim = epsilon([Event(rate=1.0, noise_multiplier=noise_multiplier, steps=8)], delta=1e-5)
    return epsilon_lower_bound(found, delta=1e-5), claim


def test_a_private_engine_survives_its_audit():
    bound, claim = audited(8.0)
    assert bound <= claim


def test_an_engine_with_a_tenth_of_the_noise_is_caught():
    """The audit refutes the claim that σ = 8 makes for an engine that adds a tenth of that."""
    _, claim = audited(8.0)
    bound, _ = audited(0.8)
    assert bound > claim


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    model, source = save_tiny_model(folder / "model"), save_messages(folder / "messages.csv")
    return lambda *overrides: tiny_recipe(model, source, *overrides)


def ask(recipe, **changes):
    options = {"client": "blue", "canaries": 20, "guesses": 10, "confidence": 0.95, "max_steps": None, **changes}
    return audit(prepare(recipe), **options)


@pytest.mark.parametrize("strategy", ["ffa", "fedit"])
def test_a_recipe_is_audited_on_its_own_data_and_steps(recipe, strategy):
    found = ask(recipe("privacy.epsilon=3", f"strategy.name={strategy}"))
    assert found.steps == 9, "three rounds of three steps"
    assert 2.9 < found.epsilon_claimed <= 3.0
    assert found.holds
    assert (found.guesses.canaries, found.guesses.guesses) == (20, 10)


def test_a_shortened_audit_is_held_against_the_epsilon_of_its_own_steps(recipe):
    whole, short = (ask(recipe("privacy.noise_multiplier=1"), max_steps=steps) for steps in (None, 2))
    assert short.steps == 2
    assert short.epsilon_claimed < whole.epsilon_claimed


def test_an_audit_needs_a_private_recipe_and_enough_examples(recipe):
    with pytest.raises(SettingsError, match="the recipe is not private"):
        ask(recipe())
    with pytest.raises(SettingsError, match="canaries are more than the client's"):
        ask(recipe("privacy.epsilon=3"), canaries=2000)
