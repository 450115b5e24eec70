"""Losses of preference training against the papers' formulas, written out once more from all of a model's logits."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from fedlora.config.preference import PreferenceSettings
from fedlora.data.examples import Examples
from fedlora.data.form import UNPAIRED, UNPAIRED_MESSAGES
from fedlora.data.row import Row
from fedlora.models.reference import referred
from fedlora.settings import SettingsError, parse
from fedlora.tasks.answering.objective import Likelihoods
from fedlora.tasks.answering.orpo import Orpo
from fedlora.tasks.answering.unpaired_preference import UnpairedPreference, judged
from fedlora.tasks.base import IGNORED, Item
from fedlora.tasks.preference import Preference, side_of
from fedlora.tasks.verdict import Course
from tests.chats import tokenizer_with
from tests.fedlora.tasks.test_preference import ON, adapted, pairs, plain_likelihood
from tests.privacy.architectures import CONFIGS

KTO = {"beta": 0.7, "desirable_weight": 1.25, "undesirable_weight": 0.5, "reference_point": 0.4}


def base() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(CONFIGS["llama"]).eval()


def tokens(item: Item) -> int:
    return int((item["labels"] != IGNORED).sum())


def settings(**given: object) -> PreferenceSettings:
    return parse(PreferenceSettings, given)


@torch.no_grad()
def gain(model: nn.Module, item: Item) -> Tensor:
    """ln π - ln π_ref of one answer."""
    return plain_likelihood(model, item) - plain_likelihood(base(), item)


@torch.no_grad()
def test_orpo_is_the_chosen_answer_s_own_loss_and_the_odds_ratio_and_asks_no_base():
    task, model = Preference(settings(loss="orpo", beta=0.3)), adapted()
    examples = Examples(pairs(), task, 0)
    assert referred(model, examples, on=ON, at_once=2) is examples
    expected, margins = [], []
    for item in pairs():
        chosen, rejected = (
            (plain_likelihood(model, side_of(item, side)) / tokens(side_of(item, side))).exp()
            for side in ("", "rejected_")
        )
        odds = (chosen / (1 - chosen)) / (rejected / (1 - rejected))
        expected.append(-chosen.log() - 0.3 * (odds / (1 + odds)).log())
        margins.append(odds.log())
    batch = examples.batch(range(4))
    torch.testing.assert_close(task.losses(model, batch), torch.stack(expected), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(task.margins(model, batch), torch.stack(margins), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_kto_of_a_pair_is_the_mean_of_a_good_answer_s_loss_and_a_bad_one_s():
    task, model = Preference(settings(loss="kto", **KTO)), adapted()
    examples = referred(model, Examples(pairs(), task, 0), on=ON, at_once=3)
    expected = []
    for item in pairs():
        good, bad = (gain(model, side_of(item, side)) for side in ("", "rejected_"))
        of_good = 1.25 * (1 - torch.sigmoid(0.7 * (good - 0.4)))
        of_bad = 0.5 * (1 - torch.sigmoid(0.7 * (0.4 - bad)))
        expected.append((of_good + of_bad) / 2)
    found = task.losses(model, examples.batch(range(4)))
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_kto_of_single_answers_is_the_same_loss_one_by_one():
    task, model = UnpairedPreference(settings(**KTO)), adapted()
    sides = [side_of(item, side) for item in pairs() for side in ("", "rejected_")]
    items = [judged(item, good=number % 2 == 0) for number, item in enumerate(sides)]
    examples = referred(model, Examples(items, task, 0), on=ON, at_once=3)
    expected = [
        1.25 * (1 - torch.sigmoid(0.7 * (gain(model, item) - 0.4)))
        if item["good"]
        else 0.5 * (1 - torch.sigmoid(0.7 * (0.4 - gain(model, item))))
        for item in items
    ]
    batch = examples.batch(range(len(items)))
    torch.testing.assert_close(task.losses(model, batch), torch.stack(expected), atol=1e-5, rtol=1e-5)
    as_pairs = Preference(settings(loss="kto", **KTO))
    pairwise = referred(model, Examples(pairs(), as_pairs, 0), on=ON, at_once=4)
    together = as_pairs.losses(model, pairwise.batch(range(4)))
    torch.testing.assert_close(torch.stack(expected).view(4, 2).mean(1), together, atol=1e-5, rtol=1e-5)


def test_an_answer_that_is_certain_has_a_finite_loss_and_a_finite_gradient():
    certain = torch.zeros(2, requires_grad=True)
    found = Likelihoods(certain, torch.tensor([-3.0, 0.0]), torch.tensor([3, 0]), torch.tensor([2, 0]), None)
    losses = Orpo(0.1).losses(found)
    (gradient,) = torch.autograd.grad(losses.sum(), certain)
    assert losses.isfinite().all()
    assert gradient.isfinite().all()


@torch.no_grad()
def test_answers_that_are_as_the_base_has_them_are_half_right_whatever_kto_weighs():
    model = adapted(std=0.0)
    items = [judged(side_of(item, ""), good=number % 2 == 0) for number, item in enumerate(pairs())]
    task = UnpairedPreference()
    batch = referred(model, Examples(items, task, 0), on=ON, at_once=4).batch(range(4))
    measured = task.measure(model, batch)
    assert measured["loss"].value == pytest.approx(0.5)
    assert measured["reward_accuracy"].value == 0.5


@pytest.mark.parametrize("loss", ["orpo", "kto"])
def test_losses_without_a_chance_of_their_own_are_judged_by_their_course(loss):
    judge = Preference(settings(loss=loss)).judge(pairs(), ())
    assert isinstance(judge, Course)
    assert (judge.examples, judge.metric.name, judge.needs_before) == (4, "reward_accuracy", True)


def learnt(item: Item) -> str:
    labels = item["labels"]
    return "".join(tokenizer_with().convert_ids_to_tokens(labels[labels != IGNORED].tolist()))


def encode(*rows: Row, each: bool = False) -> list[Item]:
    return UnpairedPreference().encode(rows, tokenizer_with(), (), longest=60, padding=0, each=each)


def test_of_a_single_answer_it_is_learnt_with_its_end_and_its_label_says_whether_it_is_good():
    talk = [{"role": "user", "content": "why"}], [{"role": "assistant", "content": "so"}]
    good, bad = encode(Row(UNPAIRED, ("Q: why?", " so", "true")), Row(UNPAIRED, ("Q: why?", " no", "0")))
    (chat,) = encode(Row(UNPAIRED_MESSAGES, (*map(json.dumps, talk), "False")))
    assert [learnt(item) for item in (good, bad, chat)] == [" so<e>", " no<e>", "so<e>"]
    assert [bool(item["good"]) for item in (good, bad, chat)] == [True, False, False]


def test_a_label_that_is_no_judgement_is_the_row_s_own_trouble():
    good, strange = Row(UNPAIRED, ("Q", " so", "true")), Row(UNPAIRED, ("Q", " secret", "maybe"))
    with pytest.raises(SettingsError, match="example 2 cannot be used: its label is neither true nor false") as refused:
        encode(good, strange)
    assert "secret" not in str(refused.value)
    _, ignored = encode(good, strange, each=True)
    assert learnt(ignored) == ""
