"""The exactness probe says what the mathematics says."""

from __future__ import annotations

import pytest

from fedlora.adapters.exactness_probe import probe
from fedlora.settings import SettingsError


@pytest.mark.parametrize(
    ("adapter", "exact", "frozen"),
    [
        ("lora", False, {"lora_A", "lora_B"}),
        ("ia3", True, set()),
        ("fourierft", True, set()),
        ("vera", False, {"vera_lambda_b", "vera_lambda_d"}),
        ("dora", False, set()),
        ("lora_xs", True, set()),
    ],
)
def test_known_types_are_told_apart(adapter, exact, frozen):
    found = probe(adapter)
    assert found.exact == exact
    assert set(found.exact_with_frozen) == frozen


def test_an_unknown_type_is_refused_with_the_known_ones():
    with pytest.raises(SettingsError, match=r"cannot probe adapter type 'nonsense'.*lora"):
        probe("nonsense")


def test_the_error_is_that_of_what_clients_train():
    found = probe("lora")
    assert found.when_training({"lora_A", "lora_B"}) == found.error > 0.1
    assert found.when_training({"lora_B"}) == found.frozen["lora_A"] < 1e-6
    assert found.when_training(set()) == 0.0
