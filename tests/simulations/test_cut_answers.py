"""Answers that model.max_tokens cuts are counted and said before a run, and nothing ends because of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedlora.settings import SettingsError
from server.record.lines import read_records
from simulations.run import prepare, simulate
from tests.chats import chat_recipe, save_chat_model, save_questions, turns
from tests.federations import CLIENTS


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return save_chat_model(tmp_path_factory.mktemp("chats") / "model")


def said(recipe) -> str:
    heard: list[str] = []
    prepare(recipe, say=heard.append)
    return "\n".join(heard)


def test_answers_that_lose_their_end_and_answers_that_are_gone_are_counted(model, tmp_path):
    """`9+9?` is asked in 23 tokens and `10+11?` in 25; 18 of the 48 sums have one digit, and one token more ends it."""
    questions = save_questions(tmp_path / "questions.jsonl")
    text = said(chat_recipe(model, questions, "model.max_tokens=25"))
    assert "30 of 48 (62 %) are cut at model.max_tokens=25, 30 (62 %) in what is to be learnt" in text
    assert "careful   8 of 48 texts have nothing left to learn" in text
    whole = said(chat_recipe(model, questions))
    assert "none is cut at model.max_tokens=40\n" in whole
    assert "nothing left to learn" not in whole


def lines(folder: Path, rows: list[dict[str, object]]) -> str:
    """A file of these rows, dealt to the clients in turn."""
    whole = [json.dumps({**row, "client": CLIENTS[number % len(CLIENTS)]}) for number, row in enumerate(rows)]
    (folder / "rows.jsonl").write_text("\n".join(whole))
    return str(folder / "rows.jsonl")


def test_of_a_pair_either_answer_that_is_cut_is_counted(model, tmp_path):
    """The longer answer ends at 15 tokens with its end token, of every third pair at 18; it is the rejected one."""
    rows = [
        {"prompt": f"{n % 10}+{n // 10}=", "chosen": "yes", "rejected": "no no no n" + "o, " * (n % 3 == 0)}
        for n in range(48)
    ]
    pairs = ("model.task=preference", "data.format=preference", "model.max_tokens=16")
    text = said(chat_recipe(model, lines(tmp_path, rows), *pairs))
    assert "16 of 48 (33 %) are cut at model.max_tokens=16, 16 (33 %) in what is to be learnt" in text
    single = [{"prompt": row["prompt"], "completion": row["rejected"], "label": True} for row in rows]
    alone = ("model.task=unpaired-preference", "data.format=unpaired-preference", "model.max_tokens=16")
    text = said(chat_recipe(model, lines(tmp_path, single), *alone))
    assert "16 of 48 (33 %) are cut at model.max_tokens=16, 16 (33 %) in what is to be learnt" in text


def test_of_a_question_the_prompt_is_cut_and_no_choice_unless_it_does_not_fit(model, tmp_path):
    rows = [{"prompt": "why is it? " * 2 + str(n), "choices": [" so", " no"], "answer": 0} for n in range(24)]
    rows += [{"prompt": f"{n}", "choices": [" so", " " + "no" * 10], "answer": 0} for n in range(12)]
    asked = ("model.task=multiple-choice", "data.format=choices", "model.max_tokens=20")
    text = said(chat_recipe(model, lines(tmp_path, rows), *asked))
    assert "24 of 36 (67 %) are cut at model.max_tokens=20\n" in text
    assert "12 of 36 texts have nothing left to learn" in text


def test_a_client_whose_answers_are_all_cut_away_has_no_figures_and_ends_no_round(model, tmp_path):
    source, long = tmp_path / "questions.jsonl", "why is that so?"
    rows = [(f"{n}+{n}?" + (long if client == "white" else ""), client) for client in CLIENTS for n in range(10)]
    source.write_text("\n".join(json.dumps({"messages": turns(q, "no"), "client": client}) for q, client in rows))
    recipe = chat_recipe(model, str(source), "model.max_tokens=26")
    summary = simulate(prepare(recipe), tmp_path / "run", watch=lambda event: None)
    assert set(summary["loss_by_client"]) == set(CLIENTS) - {"white"}
    for record in read_records(tmp_path / "run"):
        answers = {client.client: client for client in record.clients}
        assert {client.outcome for client in answers.values()} == {"trained"}
        assert [name for name, client in answers.items() if client.received is None] == ["white"]


def test_a_test_set_without_one_answer_is_refused_before_a_round_is_asked_for(model, tmp_path):
    recipe = chat_recipe(model, save_questions(tmp_path / "questions.jsonl"), "model.max_tokens=20")
    with pytest.raises(SettingsError, match=r"nothing to measure on the 6 test examples.*model\.max_tokens=20; raise"):
        simulate(prepare(recipe), tmp_path / "run", watch=lambda event: None)
    assert not list(read_records(tmp_path / "run"))
