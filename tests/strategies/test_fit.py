"""Which recipes a strategy refuses, and which strategies a refusal names."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fedlora.config import Recipe
from fedlora.settings import SettingsError, parse
from strategies.fit import named, remarks, require_fit
from tests.strategies.examples import built


def recipe(name: str, **values: Any) -> Recipe:
    return parse(Recipe, {"strategy": {"name": name}, **values})


CORE = {"kind": "lora_xs"}
DEVICES = {"others": {"r": 4}}


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("fedit", {"adapter": CORE}, "trains A or B, adapter.kind=lora_xs does not have it; set adapter.kind=lora."),
        ("fedsb", {}, "trains a core R, adapter.kind=lora does not have it; set adapter.kind=lora_xs."),
        ("fedsa", {"privacy": {"epsilon": 3.0}}, "Set privacy.report_metrics=true"),
        ("fedit", {"devices": DEVICES}, "choose one of: flexlora, flora, hetlora."),
        ("fedex", {"wire": {"download": "changes"}}, "it moves the base"),
        ("hetlora", {"wire": {"download": "changes"}, "devices": DEVICES}, "needs one state for all clients"),
        ("fedex", {"robust": {"rule": "median"}}, "are linear: fedit, fedsa, fedsb, fedsvd, ffa, rolora."),
    ],
)
def test_what_does_not_go_together_is_refused_with_what_would(name, values, message):
    with pytest.raises(SettingsError, match=re.escape(message)):
        require_fit(recipe(name, **values), built(name))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("fedit", {}),
        ("fedsb", {"adapter": CORE}),
        ("fedsa", {"privacy": {"epsilon": 3.0, "report_metrics": True}}),
        ("fedsa", {"privacy": {}}),
        ("ffa", {"privacy": {"epsilon": 3.0}}),
        ("hetlora", {"devices": DEVICES}),
        ("fedit", {"wire": {"download": "changes"}}),
        ("fedit", {"robust": {"rule": "median"}}),
    ],
)
def test_what_goes_together_is_not(name, values):
    require_fit(recipe(name, **values), built(name))


def test_strategies_are_named_by_all_the_traits_that_are_asked_for():
    assert named(linear_uploads=True) == ["fedit", "fedsa", "fedsb", "fedsvd", "ffa", "rolora"]
    assert named(unequal_ranks=True) == ["flexlora", "flora", "hetlora"]
    assert named(unequal_ranks=True, exact=True) == ["flora"]
    assert named(moves_base=False, exact=True) == ["fedsb", "fedsvd", "ffa", "rolora"]


def test_only_averaging_that_is_not_exact_is_remarked_on():
    (said,) = remarks(recipe("fedit"), built("fedit"))
    assert said.startswith(
        "strategy fedit averages lora_A and lora_B, and that is not averaging ΔW (the probe: off by "
    )
    assert said.endswith("exact are: fedex, fedsb, fedsvd, ffa, flora, rolora.")
    (said,) = remarks(recipe("fedsa"), built("fedsa"))
    assert said == "strategy fedsa has no global model: every client ends with one of its own."
    for name in ("ffa", "fedsvd", "fedex", "flora"):
        assert list(remarks(recipe(name), built(name))) == []
    assert list(remarks(recipe("fedsb", adapter=CORE), built("fedsb"))) == []
