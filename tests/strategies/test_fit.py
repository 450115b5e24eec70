"""What is allowed and should be known of a recipe is said, and nothing else is."""

from __future__ import annotations

from typing import Any

from fedlora.config import Recipe
from fedlora.settings import parse
from strategies.fit import remarks
from strategies.registry import named
from tests.strategies.examples import built


def recipe(name: str, **values: Any) -> Recipe:
    return parse(Recipe, {"strategy": {"name": name}, **values})


def test_only_averaging_that_is_not_exact_is_remarked_on():
    (said,) = remarks(recipe("fedit"), built("fedit"))
    assert said.startswith(
        "strategy fedit averages lora_A and lora_B, which is not the same as averaging ΔW (measured: wrong by "
    )
    assert said.endswith(f"exact strategies: {', '.join(named(exact=True))}.")
    (said,) = remarks(recipe("fedsa"), built("fedsa"))
    assert said == "strategy fedsa has no global model: every client ends with its own."
    for name in ("ffa", "fedsvd", "fedex", "flora"):
        assert list(remarks(recipe(name), built(name))) == []
    assert list(remarks(recipe("fedsb", adapter={"kind": "lora_xs"}), built("fedsb"))) == []
