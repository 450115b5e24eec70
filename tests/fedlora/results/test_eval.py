"""`fedlora eval`: the task's own metrics of a run's result on a file, as scikit-learn and the run itself have them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from sklearn.metrics import classification_report

from fedlora.adapters.untouched import untouched
from fedlora.config.recipe import Recipe
from fedlora.models.evaluation import evaluate_examples
from fedlora.results.given import Naming, whole_rows
from fedlora.results.judging.figures import Figure
from fedlora.results.opened import open_result
from fedlora.results.registry import results_of
from fedlora.settings import SettingsError
from tests.federations import CLIENTS
from tests.fedlora.results.runs import lines_of, typed


def measured(*words: object) -> dict:
    return json.loads(typed("eval", *words, "--json").stdout)


def by_the_run_s_own_measure(run, file) -> dict[str, float]:
    """What the loop's evaluation says of the same rows."""
    opened = open_result(run)
    naming = Naming.of(opened.source.recipe.data, opened.on.task, renamed={}, form=None)
    given = whole_rows(str(file), naming, results_of(opened.on.task), client=None)
    examples = opened.examples([one.row for one in given], each=False)
    found = evaluate_examples(opened.model, examples, by=Recipe(model=opened.on))
    return {"loss": found.loss, **found.metrics}


@pytest.fixture(params=["texts", "answers", "pictures", "pairs", "tags", "choices", "judged"])
def run_and_file(request, messages):
    found = request.getfixturevalue(request.param)
    return found if isinstance(found, tuple) else (found, messages)


def test_the_metrics_are_those_of_the_run_s_own_evaluation(run_and_file):
    found = measured(*run_and_file)
    figures = found.get("fedlora", found)["metrics"]
    expected = by_the_run_s_own_measure(*run_and_file)
    assert {name: one["value"] for name, one in figures.items()} == pytest.approx(expected, abs=1e-5)
    assert all(one["stderr"] >= 0 for one in figures.values())


def test_by_class_it_is_scikit_learn_s_report_of_what_predict_writes(texts, messages):
    found = measured(texts, messages)
    truth = [row["label"] for row in csv.DictReader(Path(messages).read_text().splitlines())]
    said = [line["label"] for line in lines_of(texts, messages)]
    theirs = classification_report(truth, said, output_dict=True, zero_division=0)
    for name, one in found["classes"].items():
        expected = [theirs[name][key] for key in ("precision", "recall", "f1-score", "support")]
        assert [one[key] for key in ("precision", "recall", "f1", "rows")] == pytest.approx(expected, abs=1e-12)
    assert found["metrics"]["accuracy"]["value"] == pytest.approx(theirs["accuracy"], abs=1e-12)
    assert sum(map(sum, found["confusion"]["counts"])) == found["rows"] == len(truth)


def test_every_client_is_measured_by_itself_and_the_worst_is_named(texts, messages, tmp_path):
    found = measured(texts, messages)
    assert tuple(found["by_client"]) == CLIENTS
    of_clients = {name: own["accuracy"]["value"] for name, own in found["by_client"].items()}
    assert of_clients[found["worst_client"]["client"]] == min(of_clients.values())
    lines = Path(messages).read_text().splitlines()
    red = tmp_path / "red.csv"
    red.write_text("\n".join([lines[0], *(line for line in lines if line.endswith(",red"))]))
    assert measured(texts, red)["metrics"]["accuracy"]["value"] == pytest.approx(of_clients["red"])
    bare = tmp_path / "bare.csv"
    bare.write_text("\n".join(line.rpartition(",")[0] for line in lines))
    assert "by_client" not in measured(texts, bare)
    assert "worst" in typed("eval", texts, messages).stdout


def test_folders_of_clients_are_clients_of_pictures(pictures):
    assert tuple(measured(*pictures)["by_client"]) == CLIENTS


def test_the_base_is_measured_beside_it_and_the_difference_has_the_error_of_pairs(answers):
    run, file = answers
    found = measured(run, file, "--with-base")["fedlora"]
    opened = open_result(run)
    with untouched(opened.model):
        plain = opened.task.measure(opened.model, opened.examples(rows_of(opened, file), each=False).batch(range(48)))
    assert found["base"]["loss"]["value"] == pytest.approx(plain["loss"].value, abs=1e-5)
    gained = found["difference"]["loss"]
    assert gained["value"] == pytest.approx(found["metrics"]["loss"]["value"] - found["base"]["loss"]["value"])
    assert gained["stderr"] < found["metrics"]["loss"]["stderr"] + found["base"]["loss"]["stderr"]
    assert "; base " in typed("eval", run, file, "--with-base").stdout


def rows_of(opened, file):
    naming = Naming.of(opened.source.recipe.data, opened.on.task, renamed={}, form=None)
    return [one.row for one in whole_rows(str(file), naming, results_of(opened.on.task), client=None)]


def test_without_an_adapter_a_pair_s_margin_is_nothing(pairs):
    """What the task takes from the base is taken with the adapter off already."""
    found = measured(*pairs, "--with-base")["fedlora"]
    assert found["base"]["reward_margin"]["value"] == pytest.approx(0, abs=1e-6)
    gained, adapted = (found[of]["reward_margin"]["value"] for of in ("difference", "metrics"))
    assert gained == pytest.approx(adapted, abs=1e-6)
    assert adapted > 0.01


def test_of_a_language_model_the_file_has_the_harness_layout(answers, tmp_path):
    run, file = answers
    out = tmp_path / "results.json"
    typed("eval", run, file, "--out", out)
    found = json.loads(out.read_text())
    own = found["results"]["questions"]
    figures = found["fedlora"]["metrics"]
    assert own["token_accuracy,none"] == figures["token_accuracy"]["value"]
    assert own["loss_stderr,none"] == figures["loss"]["stderr"]
    assert own["perplexity,none"] == pytest.approx(2.718281828 ** own["loss,none"], rel=1e-6)
    assert own["perplexity_stderr,none"] == pytest.approx(own["perplexity,none"] * own["loss_stderr,none"], rel=1e-6)
    assert found["higher_is_better"]["questions"]["perplexity"] is False
    for part in ("results", "configs", "versions", "n-shot", "higher_is_better", "n-samples"):
        assert list(found[part]) == ["questions"]
    assert found["n-samples"]["questions"] == {"original": 48, "effective": 48}
    assert "peft=run" in found["config"]["model_args"]
    assert (own["name"], own["alias"], own["sample_len"]) == ("questions", "questions", 48)
    assert found["config"]["batch_size"] == "1"


def test_rows_with_nothing_in_them_are_left_out_and_counted(texts, tmp_path):
    file = tmp_path / "some.csv"
    file.write_text("text,label\ngreat crew,good\n,good\nlate bag,bad\n")
    found = measured(texts, file)
    assert (found["rows"], found["left_out"]) == (2, {"nothing in column 'text'": 1})
    assert "2 rows; left out: 1 with nothing in column 'text'" in typed("eval", texts, file).stdout


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("text,label\ngreat crew,fine\n", r"the label 'fine' is not one of the run's classes: bad, good"),
        ('text,label\ngreat "crew,good\n', r"some\.csv:2: a quote inside the cell .*\nMend these rows"),
        ("text\ngreat crew\n", r"has no column 'label'; it has text\. Say what it is called with --column label=NAME"),
        ("text,label\n", r"there is nothing to measure on"),
    ],
)
def test_what_cannot_be_measured_is_said_with_the_way_out(texts, tmp_path, content, said):
    file = tmp_path / "some.csv"
    file.write_text(content)
    with pytest.raises(SettingsError, match=said):
        typed("eval", texts, file, "--out", tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_a_column_of_clients_that_is_not_there_is_said(texts, messages):
    with pytest.raises(
        SettingsError, match=r"--client-column hospital: .* has no such column; it has text, label, client"
    ):
        typed("eval", texts, messages, "--client-column", "hospital")


def test_a_file_with_nothing_left_to_learn_is_refused(answers, tmp_path):
    file = tmp_path / "long.jsonl"
    turns = [{"role": "user", "content": "a" * 80}, {"role": "assistant", "content": "x"}]
    file.write_text(json.dumps({"messages": turns}) + "\n")
    with pytest.raises(
        SettingsError, match=r"in none of 1 rows is anything left once it is cut at model\.max_tokens=40"
    ):
        typed("eval", answers[0], file)


def test_a_task_that_nobody_has_answered_for_is_measured_all_the_same(texts, messages, monkeypatch):
    monkeypatch.delitem(__import__("fedlora.results.registry", fromlist=["RESULTS"]).RESULTS, "sequence-classification")
    found = measured(texts, messages)
    assert found["metrics"]["accuracy"]["value"] == pytest.approx(by_the_run_s_own_measure(texts, messages)["accuracy"])
    assert "classes" not in found
    with pytest.raises(SettingsError, match=r"nothing is predicted with the task sequence-classification"):
        lines_of(texts, messages)


def test_a_number_is_shown_with_its_error():
    from fedlora.results.judging.shown import number
    from fedlora.tasks.metric import LOSS

    assert number(Figure(1.5, None, 1), LOSS) == "1.5 nats"
