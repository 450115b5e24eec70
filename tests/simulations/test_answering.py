"""Whole runs of what is asked of models that write answers, and the answers that a run's model writes in the end."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedlora.config import Recipe
from fedlora.settings import SettingsError
from server.record.lines import read_records
from simulations.run import prepare, simulate
from strategies.compatibility import Place, case_of, require_compatible
from tests.chats import chat_recipe, save_chat_model, save_questions
from tests.federations import CLIENTS

PRIVATE = (
    "privacy.epsilon=8", "privacy.delta=1e-3", "privacy.clip=1.0", "train.optimizer=sgd", "train.lr=0.5",
    "train.batch_size=4", "adapter.init=orthonormal", "strategy.name=fedsvd",
)  # fmt: skip
OF_PAIRS = ("model.task=preference", "data.format=preference")
TASKS = {
    "orpo": (*OF_PAIRS, "model.preference.loss=orpo"),
    "kto": (*OF_PAIRS, "model.preference.loss=kto"),
    "unpaired": ("model.task=unpaired-preference", "data.format=unpaired-preference"),
    "choices": ("model.task=multiple-choice", "data.format=choices"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> tuple[str, str]:
    """A model, and sums as rows of all formats."""
    folder = tmp_path_factory.mktemp("answering")
    sums = [(n, m, client) for m, client in enumerate(CLIENTS) for n in range(12)]
    rows = [
        {
            "prompt": f"{n}+{m}=", "chosen": f"{n + m}", "rejected": f"{n + m + 1}?", "completion": f"{n + m + n % 2}",
            "label": n % 2 == 0, "choices": [f"{n + m + 1}", f"{n + m}", f"{n * m + 7}"], "answer": 1, "client": client,
        }
        for n, m, client in sums
    ]  # fmt: skip
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return save_chat_model(folder / "model"), str(folder / "rows.jsonl")


def run(recipe: Recipe, folder: Path) -> dict[str, object]:
    return simulate(prepare(recipe), folder, watch=lambda event: None)


@pytest.mark.parametrize(
    ("name", "privacy"), [*((name, ()) for name in TASKS), ("unpaired", PRIVATE), ("choices", PRIVATE)]
)
def test_every_loss_trains_in_rounds_with_privacy_and_without(place, tmp_path, name, privacy):
    summary = run(chat_recipe(*place, *TASKS[name], *privacy), tmp_path / "run")
    last = list(read_records(tmp_path / "run"))[-1]
    assert (last.round, summary["metric"]) == (2, "choice_accuracy" if name == "choices" else "reward_accuracy")
    assert all(client.outcome == "trained" for client in last.clients)
    assert math.isfinite(summary["loss"])
    assert 0 <= summary["score"] <= 1
    assert summary["verdict"]


def test_a_run_s_answers_are_those_of_its_exported_adapter_and_stand_beside_the_base_s(place, tmp_path):
    questions = save_questions(tmp_path / "questions.jsonl")
    asked = chat_recipe(place[0], questions, "rounds.generate={examples: 3, max_new_tokens: 8}")
    summary = run(asked, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "answers.jsonl").read_text().splitlines()]
    assert summary["answers"]["examples"] == len(lines) == 3
    assert 0 <= summary["answers"]["rouge_l"] <= 1
    assert summary["verdict"][-1].startswith("Its answers to 3 questions: ROUGE-L 0.")
    base = AutoModelForCausalLM.from_pretrained(place[0]).eval()
    tokenizer = AutoTokenizer.from_pretrained(place[0])

    def answers(model) -> list[str]:
        found = []
        for line in lines:
            ids = tokenizer(line["prompt"], add_special_tokens=False, return_tensors="pt")["input_ids"]
            with torch.inference_mode():
                written = model.generate(input_ids=ids, attention_mask=ids**0, max_new_tokens=8, do_sample=False)
            found.append(tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True))
        return found

    assert [line["before"] for line in lines] == answers(base)
    adapted = PeftModel.from_pretrained(base, tmp_path / "run" / "adapter").eval()
    assert [line["answer"] for line in lines] == answers(adapted)


def test_a_run_that_does_not_ask_generates_nothing_and_one_that_cannot_is_refused(place, tmp_path):
    assert "answers" not in run(chat_recipe(place[0], save_questions(tmp_path / "q.jsonl")), tmp_path / "run")
    assert not (tmp_path / "run" / "answers.jsonl").exists()
    generate = "rounds.generate={examples: 3}"
    for other, said in (
        (TASKS["orpo"], "no effect with model.task=preference"),
        (("strategy.name=fedsa",), "which has no global model"),
        (("mode=alone",), "a model for every client"),
    ):
        with pytest.raises(SettingsError, match=said):
            prepare(chat_recipe(*place, generate, *other))
    with pytest.raises(SettingsError, match="but there is none: set held_out"):
        require_compatible(case_of(chat_recipe(*place, generate), Place(engine="sites", evaluates=False)))


def test_what_cannot_be_asked_is_known_before_a_round(place, tmp_path):
    (tmp_path / "texts.jsonl").write_text(
        "\n".join(json.dumps({"text": f"{n} is a number", "client": CLIENTS[n % 4]}) for n in range(48))
    )
    texts = chat_recipe(place[0], str(tmp_path / "texts.jsonl"), "data.format=text", "rounds.generate.examples=2")
    long = chat_recipe(place[0], save_questions(tmp_path / "q.jsonl"), "rounds.generate.max_new_tokens=30")
    for recipe, said in (
        (texts, r"no row of the test set is a question"),
        (long, r"max_tokens=40 and 30 new tokens are more than the 64 positions"),
    ):
        with pytest.raises(SettingsError, match=said):
            run(recipe, tmp_path / "run")
        assert not (tmp_path / "run" / "rounds.jsonl").exists()


def test_a_setting_of_another_loss_is_refused(place):
    for settings, said in (
        ((*OF_PAIRS, "model.preference.reference_point=1"), r"reference_point has no effect with the loss dpo"),
        ((*TASKS["kto"], "model.preference.label_smoothing=0.1"), r"label_smoothing has no effect with the loss kto"),
        ((*TASKS["unpaired"], "model.preference.label_smoothing=0.1"), r"no effect with the loss kto"),
        ((*TASKS["unpaired"], "model.preference.loss=orpo"), r"loss=orpo has no effect .* those stand alone"),
    ):
        with pytest.raises(SettingsError, match=said):
            prepare(chat_recipe(*place, *settings))
    accepted = (*TASKS["unpaired"], "model.preference.loss=kto", "model.preference.undesirable_weight=2")
    require_compatible(case_of(chat_recipe(*place, *accepted)))
