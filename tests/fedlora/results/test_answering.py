"""`fedlora predict` of questions with choices and of answers that stand alone: no right one is needed."""

from __future__ import annotations

import json

import pytest

from fedlora.results.opened import open_result
from fedlora.results.registry import RESULTS
from fedlora.tasks.answering.choices import score_choices
from fedlora.tasks.registry import TASKS
from tests.fedlora.results.runs import lines_of
from tests.fedlora.results.test_eval import measured, rows_of


def without(file, folder, column):
    """The file without what is to be answered."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    bare = folder / "bare.jsonl"
    bare.write_text("".join(json.dumps({k: v for k, v in row.items() if k != column}) + "\n" for row in rows))
    return bare


def test_every_task_there_is_answers():
    assert RESULTS.keys() == TASKS.keys()


def test_the_likeliest_choice_comes_with_the_log_probability_of_each(choices, tmp_path):
    run, file = choices
    found = lines_of(run, without(file, tmp_path, "answer"))
    opened = open_result(run)
    scored = score_choices(opened.model, opened.base.processor, rows_of(opened, file), longest=opened.on.max_tokens)
    for line, one in zip(found, scored, strict=True):
        assert line["nats"] == pytest.approx(one.scores, abs=1e-5)
        assert (line["answer"], line["answer_by_length"]) == (one.best, one.best_by_length)
    first = json.loads(file.read_text().splitlines()[0])
    assert found[0]["choice"] == first["choices"][found[0]["answer"]]
    right = sum(line["answer"] == 1 for line in found) / len(found)
    assert measured(run, file)["fedlora"]["metrics"]["choice_accuracy"]["value"] == pytest.approx(right)


def test_a_row_that_is_no_question_says_why_and_the_others_are_answered(choices, tmp_path):
    file = tmp_path / "asked.jsonl"
    rows = [
        {"prompt": "1+1=", "choices": ["2"]}, {"prompt": "1+1=", "choices": "2"},
        {"prompt": "1+1=", "choices": ["2", "2" * 60]}, {"prompt": "1+1=", "choices": ["2", "3"]},
    ]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    *wrong, right = lines_of(choices[0], file)
    assert [line["error"] for line in wrong] == [
        "a question has from 2 to 64 choices",
        "choices are a list of texts, none of them empty",
        "a choice does not fit into model.max_tokens=40, or cannot be read",
    ]
    assert right["choice"] in ("2", "3")


def test_an_answer_s_reward_is_the_run_s_own_margin_whatever_its_label(judged, tmp_path):
    run, file = judged
    found = lines_of(run, without(file, tmp_path, "label"))
    assert found == lines_of(run, file)
    labels = [json.loads(line)["label"] for line in file.read_text().splitlines()]
    margins = [line["reward"] if good else -line["reward"] for line, good in zip(found, labels, strict=True)]
    whole = measured(run, file)["fedlora"]["metrics"]
    assert whole["reward_margin"]["value"] == pytest.approx(sum(margins) / len(margins), abs=1e-6)
    held = [
        line["label"] == good if line["label"] is not None else 0.5 for line, good in zip(found, labels, strict=True)
    ]
    assert whole["reward_accuracy"]["value"] == pytest.approx(sum(held) / len(held))
