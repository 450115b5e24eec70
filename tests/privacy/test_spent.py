"""What is said of a run's privacy to whoever gets its adapter, word for word and figure for figure."""

from __future__ import annotations

import math

import pytest

from fedlora.config import Recipe
from fedlora.privacy.accounting import ClientLevel, Event, client_level_epsilon, epsilon
from fedlora.privacy.receipt import Receipt
from fedlora.privacy.spent import epsilon_max, leaks, privacy_note, privacy_summary
from fedlora.privacy.unconfirmed import Confirmed, Sent, SiteSpent, charges_in, spent_by_site
from fedlora.settings import parse

FIRST_STEP = {"kind": "lora_xs", "init": "client-gradients", "first_step": {"epsilon": 0.5, "batch_size": 8}}


def recipe(privacy: dict, **values) -> Recipe:
    return parse(Recipe, {"privacy": privacy, **values})


def spent(epsilon: float, confirmed: float, unconfirmed: int = 0, *, secure: bool = True) -> SiteSpent:
    return SiteSpent(epsilon, confirmed, unconfirmed, None, secure)


def note(*sites: SiteSpent, privacy: dict | None = None, **values) -> str | None:
    asked = recipe({"epsilon": 3.0} if privacy is None else privacy, **values)
    return privacy_note(asked, {str(number): site for number, site in enumerate(sites)})


def test_the_note_says_the_largest_epsilon_rounded_up():
    said = "Trained with differential privacy: ε is at most {} at δ = 1e-05 for every site, one example added or removed (DP-SGD)."  # noqa: E501
    assert note(spent(1.0, 1.0), spent(2.001, 2.001)) == said.format("2.01")
    assert note(spent(2.0, 2.0)) == said.format("2.00")
    assert note() == said.format("0.00")
    assert note(spent(math.inf, 1.0)) == said.format("infinite")
    assert note(spent(2.0, 2.0), privacy={}) is None


def test_the_note_says_what_no_receipt_covers():
    text = note(spent(2.5, 1.234, 2), spent(1.0, 1.0, 1))
    assert text is not None
    assert text.endswith(
        " The sites' receipts confirm 1.24 of it; 3 task(s) that were sent have no receipt and are counted as charged."
    )


def test_the_note_says_that_a_seeds_epsilon_guarantees_nothing():
    text = note(spent(2.0, 2.0), spent(1.0, 1.0, secure=False))
    assert text is not None
    assert text.endswith(" The noise came from a seed: this ε is for tests and is not a guarantee.")


def test_the_note_adds_the_private_first_step_and_only_where_there_was_one():
    text = note(spent(2.0, 2.0), adapter=FIRST_STEP, strategy={"name": "fedsb"})
    assert text is not None
    assert text.endswith(" The round before it asked sites for gradients and is counted separately: ε at most 0.5.")
    assert "first" not in str(note(spent(2.0, 2.0)))


def test_the_summary_has_every_sites_figures_and_the_largest_of_them():
    sites = {"a": spent(2.5, 1.5, 2), "b": spent(1.0, 1.0, secure=False)}
    found = privacy_summary(recipe({"epsilon": 3.0}), sites, rounds=4)
    assert epsilon_max(sites) == found["epsilon_max"] == 2.5
    assert found["epsilon_by_client"] == {"a": 2.5, "b": 1.0}
    assert found["epsilon_confirmed"] == {"a": 1.5, "b": 1.0}
    assert found["epsilon_sent_unconfirmed"] == {"a": 1.0, "b": 0.0}
    assert found["tasks_sent_unconfirmed"] == {"a": 2, "b": 0}
    assert (found["delta"], found["adjacency"]) == (1e-5, "add-or-remove-one")
    assert (found["privacy_unit"], found["dropout"], found["insecure_noise"]) == ("example", "off", True)
    assert "client_level" not in found
    secure = {"a": spent(2.5, 1.5)}
    assert privacy_summary(recipe({"epsilon": 3.0}), secure, rounds=4)["insecure_noise"] is False
    assert privacy_summary(recipe({}), {}, rounds=4) == {}


def test_the_client_level_is_of_every_round_and_stands_beside_the_other():
    asked = recipe({"client_level": {"clip": 0.5, "noise_multiplier": 2.0, "clients": 8, "delta": 1e-3}})
    assert privacy_summary(asked, {}, rounds=7)["client_level"] == {
        "epsilon": client_level_epsilon([ClientLevel(noise_multiplier=2.0, rounds=7)], delta=1e-3),
        "delta": 1e-3,
        "adjacency": "add-or-remove-one-client",
        "noise_multiplier": 2.0,
        "clip": 0.5,
        "clients": 8,
        "denominator": 9,
        "rounds": 7,
        "trusts": "the coordinator",
    }
    assert "epsilon_max" not in privacy_summary(asked, {}, rounds=7)


def test_a_site_that_no_receipt_came_from_may_have_been_charged_for_all_that_was_sent():
    sent = [Sent("a", "t1"), Sent("a", "t2"), Sent("b", "t1")]
    to_target = spent_by_site(recipe({"epsilon": 3.0}), sent, [])
    assert to_target == {
        "a": SiteSpent(3.0, 0.0, 2, None, True),
        "b": SiteSpent(3.0, 0.0, 1, None, True),
    }
    by_noise = recipe({"noise_multiplier": 2.0}, train={"steps": 3}, rounds={"count": 5})
    for site, trainings in (("a", 2), ("b", 1)):
        found = spent_by_site(by_noise, sent, [])[site]
        assert found.epsilon == epsilon([Event(rate=1.0, noise_multiplier=2.0, steps=3 * trainings)], delta=1e-5)
        assert (found.confirmed, found.unconfirmed) == (0.0, trainings)
    assert spent_by_site(recipe({}), sent, []) == {}


TRAINING = {"rate": 0.1, "noise_multiplier": 2.0, "steps": 4}
BY_NOISE = {"privacy": {"noise_multiplier": 2.0}, "rounds": {"count": 6}}


def after(trainings: int) -> float:
    event = Event(rate=TRAINING["rate"], noise_multiplier=TRAINING["noise_multiplier"], steps=4 * trainings)
    return epsilon([event], delta=1e-5)


def receipt(sequence: int, epsilon_run: float) -> Receipt:
    return Receipt(
        client="a", dataset="default", run="r", round=1, task="t", clip=1.0, delta=1e-5, epsilon_run=epsilon_run,
        epsilon_lifetime=epsilon_run, delta_lifetime=1e-5, epsilon_allowed=8.0, secure=True, sequence=sequence,
        digest=str(sequence), **TRAINING,
    )  # fmt: skip


def test_how_many_trainings_a_receipt_covers_follows_from_its_epsilon():
    asked = parse(Recipe, BY_NOISE)
    for count in range(1, 7):
        for least in (1, count):
            assert charges_in(receipt(1, after(count)), asked, least=least, most=6) == count
    assert charges_in(receipt(1, after(5)), asked, least=1, most=4) is None
    assert charges_in(receipt(1, (after(2) + after(3)) / 2), asked, least=1, most=6) is None
    adapts = recipe({"epsilon": 3.0, "adapt": {"below": 0.9}})
    assert charges_in(receipt(1, after(1)), adapts, least=1, most=6) is None


@pytest.mark.parametrize(("covered", "unconfirmed"), [(2, 1), (3, 0)])
def test_a_task_without_a_receipt_is_one_more_training_unless_a_later_receipt_covers_it(covered, unconfirmed):
    sent = [Sent("a", task) for task in ("t1", "t2", "t3")]
    back = [Confirmed("a", "t1", receipt(2, after(1)), "key"), Confirmed("a", "t3", receipt(6, after(covered)), "key")]
    found = spent_by_site(parse(Recipe, BY_NOISE), sent, back)["a"]
    assert (found.confirmed, found.unconfirmed) == (after(covered), unconfirmed)
    assert found.epsilon == after(3)


@pytest.mark.parametrize(
    ("privacy", "named"),
    [
        ({"epsilon": 3.0}, []),
        ({"epsilon": 3.0, "report_metrics": True}, ["losses and accuracies on the sites' own data"]),
        ({"epsilon": 3.0, "insecure_seed": 0}, ["everything: privacy.insecure_seed"]),
        ({"epsilon": 3.0, "adapt": {"below": 0.9}}, ["the coordinator's own test set"]),
        (
            {"client_level": {"clip": 0.5, "noise_multiplier": 2.0, "clients": 8}},
            ["whether a round reached its quorum", "the coordinator sees single updates", "evaluations that are"],
        ),
    ],
)
def test_what_epsilon_does_not_cover_is_named_and_nothing_else(privacy, named):
    always = leaks(recipe({"epsilon": 3.0}))
    found = leaks(recipe(privacy))
    assert found[: len(always)] == always
    assert len(found) == len(always) + len(named)
    for text, start in zip(found[len(always) :], named, strict=True):
        assert text.startswith(start)
