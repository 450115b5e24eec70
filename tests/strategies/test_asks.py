"""A strategy's name binds: it may ask a site for what it trains, keeps and adapts, in every round, and no more."""

from __future__ import annotations

import itertools

import pytest

from fedlora.config import AdapterSettings, ModelSettings, TrainSettings
from fedlora.config.privacy import PrivacySettings
from fedlora.config.wire import WireSettings
from fedlora.privacy.refusal import Code, Refusal
from fedlora.protocol.task import Task
from fedlora.updates import Factor
from strategies.asks import asks_of, require_as_named
from strategies.registry import STRATEGIES, build

KINDS = ("lora", "lora_xs")
SETS = [frozenset(chosen) for size in range(5) for chosen in itertools.combinations(Factor, size)]


def task(strategy: str, trains, *, keeps=(), kind: str = "lora", head: str = "train", number: int = 1, **changes):
    return Task(**{
        "run": "r", "round": number, "rounds": 4, "seed": 0, "strategy": strategy, "trains": tuple(trains),
        "keeps": tuple(keeps), "model": ModelSettings(), "fingerprint": "f", "labels": ("a", "b"),
        "adapter": AdapterSettings(kind=kind), "train": TrainSettings(head=head),
        "privacy": PrivacySettings(epsilon=1.0), "wire": WireSettings(), **changes,
    })  # fmt: skip


def asks_as_the_coordinator_does(name: str, number: int, head: str):
    strategy, frozen = build(name, {}), {Factor.DENSE} if head == "frozen" else set()
    kind = "lora_xs" if Factor.R in strategy.trains(number) else "lora"
    return strategy.trains(number) - frozen, strategy.traits.keeps - frozen, kind


@pytest.mark.parametrize("head", ["train", "frozen"])
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_of_all_that_could_be_asked_under_a_name_one_thing_is_allowed(name, number, head):
    """Every set to train, every set to keep, either kind of adapter: whatever is more, less or other is refused."""
    right = asks_as_the_coordinator_does(name, number, head)
    for trains, keeps, kind in itertools.product(SETS, SETS, KINDS):
        asked = task(name, trains, keeps=keeps, kind=kind, head=head, number=number)
        if (trains, keeps, kind) == right:
            require_as_named(asked)
            continue
        with pytest.raises(Refusal) as caught:
            require_as_named(asked)
        assert caught.value.code is Code.STRATEGY_ASKS_MORE


def test_the_refusal_says_what_is_asked_and_what_the_name_stands_for():
    with pytest.raises(Refusal, match=r"is called ffa but trains A, B, head of a lora .* ffa trains B, head of a lora"):
        require_as_named(task("ffa", ("A", "B", "head")))
    with pytest.raises(Refusal, match="fedsb trains R, head of a lora_xs"):
        require_as_named(task("fedsb", ("A", "R", "head"), kind="lora_xs"))


def test_a_strategy_that_is_not_known_here_may_ask_nothing():
    assert asks_of(task("fedtomorrow", ("B",))) == frozenset()
    with pytest.raises(Refusal, match="nothing that this version knows"):
        require_as_named(task("fedtomorrow", ("B",)))


def test_the_round_before_the_first_is_fed_sbs_alone_and_one_step_long():
    once = {"kind": "lora", "head": "frozen", "rounds": 1}
    require_as_named(task("fedsb", ("B",), train=TrainSettings(head="frozen", steps=1), **once))
    for name, steps in (("fedsb", 2), ("fedit", 1)):
        with pytest.raises(Refusal):
            require_as_named(task(name, ("B",), train=TrainSettings(head="frozen", steps=steps), **once))
