"""Multiple choice by log-probabilities, against a plain loop through transformers as lm-evaluation-harness goes."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from fedlora.data.examples import Examples, digest_of
from fedlora.data.form import CHOICES, CHOICES_MESSAGES
from fedlora.data.row import Row
from fedlora.settings import SettingsError
from fedlora.tasks.answering.choices import score_choices
from fedlora.tasks.base import IGNORED
from fedlora.tasks.registry import task_named
from tests.chats import save_chat_model, tokenizer_with

TASK = task_named("multiple-choice")
QUESTIONS = (
    ("Q: one and one?", [" two", " three, or so", " no"], 0),
    ("why is that so? ", ["because", "it is", "no idea", "q.e.d."], 3),
    ("a", [" b", " bb"], 1),
)


def row(prompt: str, choices: list[str], answer: object) -> Row:
    return Row(CHOICES, (prompt, json.dumps(choices), str(answer)))


def chat_row(prompt: str, choices: list[str], answer: object) -> Row:
    return Row(CHOICES_MESSAGES, (json.dumps([{"role": "user", "content": prompt}]), json.dumps(choices), str(answer)))


ROWS = [row(*question) for question in QUESTIONS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return save_chat_model(tmp_path_factory.mktemp("choices") / "model")


@pytest.fixture(scope="module")
def model(folder) -> nn.Module:
    """In double precision, so that 1e-6 is no rounding."""
    return AutoModelForCausalLM.from_pretrained(folder).double().eval()


@torch.no_grad()
def by_a_plain_loop(model: nn.Module, tokenizer: PreTrainedTokenizerFast, context: str, choice: str) -> float:
    """lm_eval's `_encode_pair` and `_loglikelihood_tokens`, of one request."""
    blanks = len(context) - len(context.rstrip())
    context, continuation = context[: len(context) - blanks], context[len(context) - blanks :] + choice
    whole = tokenizer(context + continuation, add_special_tokens=False)["input_ids"]
    known = len(tokenizer(context, add_special_tokens=False)["input_ids"])
    logs = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
    return float(sum(logs[place - 1, whole[place]] for place in range(known, len(whole))))


@pytest.mark.parametrize("at_once", [1, 3, 64])
def test_scores_are_those_of_a_plain_loop_over_choices(model, at_once):
    found = score_choices(model, tokenizer_with(), ROWS, longest=64, at_once=at_once)
    for (prompt, choices, answer), scored in zip(QUESTIONS, found, strict=True):
        expected = [by_a_plain_loop(model, tokenizer_with(), prompt, choice) for choice in choices]
        assert scored.scores == pytest.approx(expected, abs=1e-6)
        assert (scored.characters, scored.answer) == (tuple(map(len, choices)), answer)
        lengths = list(map(len, choices))
        assert scored.best == max(range(len(choices)), key=expected.__getitem__)
        assert scored.best_by_length == max(range(len(choices)), key=lambda n: expected[n] / lengths[n])


def test_messages_go_through_the_chat_template_up_to_where_the_assistant_begins(model):
    (found,) = score_choices(model, tokenizer_with(), [chat_row("why?", ["so", "no"], 1)], longest=64)
    ids = tokenizer_with()("<s>user\nwhy?<e>\n<s>assistant\nso", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = sum(float(logs[place, after]) for place, (_, after) in list(enumerate(pairwise(ids)))[-2:])
    assert found.scores[0] == pytest.approx(expected, abs=1e-6)


def test_a_long_prompt_is_cut_at_its_beginning_and_a_choice_that_does_not_fit_makes_no_score(model):
    whole, cut = (score_choices(model, tokenizer_with(), ROWS[:1], longest=longest)[0] for longest in (64, 17))
    _, short = score_choices(model, tokenizer_with(), [row("x" + QUESTIONS[0][0], *QUESTIONS[0][1:])] * 2, longest=17)
    assert whole.scores != cut.scores
    assert short.scores == cut.scores
    assert score_choices(model, tokenizer_with(), ROWS[:1], longest=13) == [None]


def examples(rows: list[Row], *, longest: int = 64, each: bool = False) -> Examples:
    return Examples(TASK.encode(rows, tokenizer_with(), (), longest=longest, padding=0, each=each), TASK, 0)


def test_the_task_measures_what_the_scores_say_and_learns_the_right_choice_with_its_end(model):
    scored = score_choices(model, tokenizer_with(), ROWS, longest=64)
    found = examples(ROWS)
    with torch.no_grad():
        measured = TASK.measure(model, found.batch(range(3)))
    right = [one.best == one.answer for one in scored], [one.best_by_length == one.answer for one in scored]
    assert measured["choice_accuracy"].value == pytest.approx(sum(right[0]) / 3)
    assert measured["choice_length_accuracy"].value == pytest.approx(sum(right[1]) / 3)
    labels = [item["labels"][item["labels"] != IGNORED].tolist() for item in found.items]
    learnt = ["".join(tokenizer_with().convert_ids_to_tokens(ids)) for ids in labels]
    assert learnt == [" two<e>", " q.e.d.<e>", " bb<e>"]


@pytest.mark.parametrize(
    ("strange", "said"),
    [
        (row("secret", [" a"], 0), "from 2 to 64 choices"),
        (row("secret", [" a", ""], 0), "none of them empty"),
        (row("secret", [" a", " b"], 2), "not the number of a choice, from 0"),
        (row("secret", [" a", " b"], " b"), "not the number of a choice, from 0"),
        (row(" ", [" a", " b"], 0), "its prompt is empty"),
        (Row(CHOICES, ("secret", "{", "0")), "example 2"),
    ],
)
def test_a_row_that_is_no_question_is_named_by_its_number_and_ignored_by_a_site_under_privacy(model, strange, said):
    with pytest.raises(SettingsError, match=said) as refused:
        examples([ROWS[0], strange])
    assert "secret" not in str(refused.value)
    found = examples([strange, ROWS[0], ROWS[2]], each=True)
    assert digest_of(found)
    with torch.no_grad():
        batch = found.usable_by(model).batch(range(3))
        assert TASK.losses(model, batch)[0] == 0
        assert TASK.measure(model, batch)["choice_accuracy"].weight == 2
        alone = TASK.measure(model, found.batch([0]))
    assert alone["choice_accuracy"].weight == alone["loss"].weight == 0
    assert TASK.judge(found.items, ()).examples == 2


def test_a_choice_of_tokens_that_the_model_does_not_know_makes_its_question_ignored(model):
    found = examples(ROWS[:2])
    found.items[0]["choice_ids"][-1] = 10_000
    usable = found.usable_by(model)
    assert [len(item["choice_tokens"]) for item in usable.items] == [0, 4]
    with torch.no_grad():
        assert TASK.measure(model, usable.batch([0, 1]))["choice_accuracy"].weight == 1
