"""Answers that a model writes by itself are those of plain transformers and PEFT, whoever is asked beside."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel

from fedlora.adapters import fold, write
from fedlora.data.form import MESSAGES, PROMPT_AND_COMPLETION, TEXT
from fedlora.data.row import Row
from fedlora.settings import SettingsError
from fedlora.tasks.answering.generation import Asked, asked_of, generate_answers, overlap_of
from tests.chats import tokenizer_with, turns
from tests.fedlora.exports.language_model import plain, save_base, trained

QUESTIONS = ("so?", "9+9?", "what is 10 + 11?")
CHATS = [Row(MESSAGES, (json.dumps(turns(question, "it is so.")),)) for question in QUESTIONS]
PLAIN = Row(PROMPT_AND_COMPLETION, ("Q: why?", " because"))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return save_base(tmp_path_factory.mktemp("generation") / "base")


def asked(*rows: Row) -> list[Asked]:
    return [asked_of(row, tokenizer_with(), longest=40) for row in rows]


def test_the_question_is_what_stands_before_the_last_answer_and_the_reference_has_no_end_token():
    talk = [*turns("hi", "ho"), *turns("why?", "so")]
    (chat, single) = asked(Row(MESSAGES, (json.dumps(talk),)), PLAIN)
    assert chat.prompt.endswith("<s>assistant\nho<e>\n<s>user\nwhy?<e>\n<s>assistant\n")
    assert (chat.reference, chat.whole) == ("so", True)
    assert (single.prompt, single.reference, single.whole) == ("Q: why?", " because", False)
    with pytest.raises(ValueError, match="a text asks nothing"):
        asked(Row(TEXT, ("once",)))


@pytest.mark.parametrize("strategy", ["fedit", "fedex"])
def test_answers_are_what_plain_transformers_generates_from_the_exported_adapter(base, tmp_path, strategy):
    run, tokenizer = trained(base, strategy), tokenizer_with()
    questions = asked(*CHATS, PLAIN)
    folder = run.export(tmp_path / "adapter")
    exported = PeftModel.from_pretrained(plain(base), folder).eval()
    expected = []
    for one in questions:
        ids = tokenizer(one.prompt, add_special_tokens=not one.whole, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            written = exported.generate(input_ids=ids, attention_mask=ids**0, max_new_tokens=12, do_sample=False)
        expected.append(tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True))
    fold(run.home.model, run.total)
    write(run.home.model, run.adapter.to(torch.float32))
    for at_once in (1, 3):
        found = generate_answers(run.home.model, tokenizer, questions, longest=44, max_new_tokens=12, at_once=at_once)
        assert found == expected
    fold(run.home.model, {})
    assert len(set(expected)) > 1, "answers depend on the question"
    assert all(map(len, expected))


def test_an_answer_ends_at_its_first_special_token_and_after_as_many_tokens_as_are_asked_for(base):
    model, tokenizer = plain(base), tokenizer_with()
    (long,) = generate_answers(model, tokenizer, asked(PLAIN), longest=20, max_new_tokens=9)
    (short,) = generate_answers(model, tokenizer, asked(PLAIN), longest=20, max_new_tokens=3)
    assert long.startswith(short)
    assert len(tokenizer(long)["input_ids"]) <= 9
    again = tokenizer(long[0], add_special_tokens=False)["input_ids"][0]
    model.generation_config.eos_token_id = [again]
    tokenizer.add_special_tokens({"additional_special_tokens": [long[0]]})
    assert generate_answers(model, tokenizer, asked(PLAIN), longest=20, max_new_tokens=9) == [""]


def test_a_prompt_is_cut_at_its_beginning_and_a_model_without_room_is_refused(base):
    model, tokenizer = plain(base), tokenizer_with()
    long, cut = Asked("x" * 30 + "Q: why?", "", whole=False), Asked("Q: why?", "", whole=False)
    answers = generate_answers(model, tokenizer, [long, cut], longest=7, max_new_tokens=5, at_once=1)
    assert answers[0] == answers[1]
    positions = model.config.max_position_embeddings
    with pytest.raises(SettingsError, match=rf"8 new tokens are more than the {positions} positions of Llama"):
        generate_answers(model, tokenizer, [cut], longest=positions - 7, max_new_tokens=8)


def test_overlap_is_a_mean_over_answers():
    found = overlap_of(["so", "the cat sat"], [Asked("", " so ", whole=True), Asked("", "the cat", whole=True)])
    assert (found.exact_match, found.rouge_l, found.examples) == (0.5, pytest.approx(0.9), 2)
    with pytest.raises(ValueError, match="no answer"):
        overlap_of([], [])
