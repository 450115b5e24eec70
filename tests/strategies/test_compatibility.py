"""The table of what goes with what: every rule refuses its own example, says why and what would do, and no more."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedlora.config import Recipe, load, override
from fedlora.packaged import packaged
from fedlora.settings import SettingsError, parse
from fedlora.updates import Factor
from strategies.compatibility import (
    RULES,
    WITHOUT_EFFECT,
    Rule,
    case_of,
    refusals,
    require_compatible,
    require_sensible,
)
from strategies.compatibility.page import page
from strategies.registry import STRATEGIES, build, named

TABLE = (*RULES, *WITHOUT_EFFECT)
ROOT = Path(__file__).resolve().parents[2]


def listed(**traits: bool) -> str:
    return ", ".join(named(**traits))


def recipe(*settings: str) -> Recipe:
    return parse(Recipe, override({}, settings))


def refused_by(rule: Rule, *settings: str) -> list[str]:
    """Names of the rules that refuse this, where the rule's example is refused."""
    case = case_of(recipe(*settings), rule.where)
    return [one.name for one in TABLE if one.refuses(case)]


@pytest.mark.parametrize("rule", TABLE, ids=lambda rule: rule.name)
def test_a_rule_refuses_its_example_alone_with_the_reason_and_the_way_out(rule):
    case = case_of(recipe(*rule.example), rule.where)
    assert refused_by(rule, *rule.example) == [rule.name]
    (said,) = refusals(case)
    assert "{" not in said
    assert rule.because.endswith((".", ";", ":", ","))
    assert rule.instead.endswith(".")
    assert said.endswith(rule.instead.rpartition("}")[2])


@pytest.mark.parametrize("rule", TABLE, ids=lambda rule: rule.name)
def test_an_example_has_no_setting_too_many(rule):
    """Without any one of them it is no recipe, or this rule does not refuse it alone; a default may be spelt out."""
    for left_out in rule.example:
        rest = [setting for setting in rule.example if setting != left_out]
        try:
            shorter = recipe(*rest)
        except SettingsError:
            continue
        if shorter != recipe(*rule.example):
            assert refused_by(rule, *rest) != [rule.name], left_out


def test_names_are_of_one_rule_each():
    assert len({rule.name for rule in TABLE}) == len(TABLE)


@pytest.mark.parametrize("name", packaged())
def test_packaged_recipes_are_refused_by_nothing(name):
    require_sensible(case_of(load(name)))


def test_all_that_is_wrong_is_said_at_once():
    wrong = recipe("strategy.name=fedex", "robust.rule=median", "wire.download=changes", "train.momentum=0.9")
    with pytest.raises(SettingsError) as caught:
        require_sensible(case_of(wrong))
    assert [line.partition(" ")[0] for line in str(caught.value).splitlines()] == [
        "wire.download:", "robust.rule=median", "train.momentum=0.9",
    ]  # fmt: skip
    with pytest.raises(SettingsError) as caught:
        require_compatible(case_of(wrong))
    assert len(str(caught.value).splitlines()) == 2, "what does nothing stops no run that was begun"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("strategy.name=fedit", "adapter.kind=lora_xs"), "lora_xs trains only a core; set adapter.kind=lora."),
        (("strategy.name=fedsb",), "trains a core R, but adapter.kind=lora has none; set adapter.kind=lora_xs."),
        (("strategy.name=fedsa", "privacy.epsilon=3"), "Set privacy.report_metrics=true"),
        (("strategy.name=fedit", "devices.others.r=4"), f"choose one of: {listed(unequal_ranks=True)}."),
        (("strategy.name=fedex", "robust.rule=median"), f"are linear: {listed(linear_uploads=True)}."),
    ],
)  # fmt: skip
def test_a_refusal_names_what_would_do(settings, message):
    with pytest.raises(SettingsError, match=re.escape(message)):
        require_compatible(case_of(recipe(*settings)))


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("strategy.name=fedsb", "adapter.kind=lora_xs"),
        ("strategy.name=fedsa", "privacy.epsilon=3", "privacy.report_metrics=true"),
        ("strategy.name=ffa", "privacy.epsilon=3", "robust.rule=screen"),
        ("strategy.name=hetlora", "devices.others.r=4"),
        ("strategy.name=fedit", "wire.download=changes", "wire.densities={A: 0.5, head: 1.0}"),
        ("strategy.name=rolora", "wire.densities={A: 0.5, B: 0.5}"),
        ("strategy.name=fedsa", "robust.rule=median"),
        ("data.train_fraction=0.1", "privacy.epsilon=3"),
        ("train.head=frozen", "rounds.max_weight=3"),
    ],
)
def test_what_goes_together_is_not_refused(settings):
    require_sensible(case_of(recipe(*settings)))


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_whether_a_strategy_is_refused_follows_from_its_traits_alone(name):
    """The settings that ask something of a strategy, against what it says of itself."""
    traits = build(name, {}).traits
    core = ("adapter.kind=lora_xs",) if Factor.R in build(name, {}).trains(1) else ()

    def goes_with(*settings: str) -> bool:
        return not list(refusals(case_of(recipe(f"strategy.name={name}", *core, *settings))))

    hidden = "privacy.client_level={clip: 1.0, noise_multiplier: 1.0, clients: 4}"
    assert goes_with()
    assert goes_with("devices.others.r=4") == traits.unequal_ranks
    assert goes_with("strategy.server_optimizer.name=fedadam") == traits.fixed_coordinates
    assert goes_with("wire.download=changes") != traits.moves_base
    assert goes_with("robust.rule=median") == goes_with(hidden) == traits.linear_uploads
    assert goes_with("robust.norm_bound=1") == goes_with("privacy.epsilon=3") == (not traits.keeps)
    assert goes_with("rounds.max_weight=3") != traits.own_weights


def test_strategies_are_named_by_all_the_traits_that_are_asked_for(monkeypatch):
    """Of these five, so that another strategy changes nothing here."""
    five = {name: STRATEGIES[name] for name in ("ffa", "fedit", "fedex", "flora", "hetlora")}
    monkeypatch.setattr("strategies.registry.STRATEGIES", five)
    assert named(linear_uploads=True) == ["fedit", "ffa"]
    assert named(unequal_ranks=True) == ["flora", "hetlora"]
    assert named(unequal_ranks=True, exact=True) == ["flora"]
    assert named(moves_base=False, exact=True) == ["ffa"]


def test_the_document_is_the_table():
    same = (ROOT / "docs/combinations.md").read_text(encoding="utf-8") == page()
    assert same, "make it again: python -m strategies.compatibility.page > docs/combinations.md"
