"""`fedlora predict` and `eval` of words with tags, against seqeval and the run's own evaluation."""

from __future__ import annotations

import csv
import json

import pytest
from seqeval.metrics import classification_report

from fedlora.results.judging.figures import Figure, difference, figure
from fedlora.tasks.base import Mean
from tests.federations import CLIENTS, PLAIN
from tests.fedlora.results.runs import lines_of, typed
from tests.fedlora.results.test_eval import measured
from tests.taggings import LABELS


def test_every_word_has_its_tag_and_none_is_needed_in_the_file(tags, tmp_path):
    run, file = tags
    bare = tmp_path / "bare.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    bare.write_text("".join(json.dumps({"tokens": row["tokens"]}) + "\n" for row in rows))
    found = lines_of(run, bare)
    assert [line["tokens"] for line in found] == [row["tokens"] for row in rows]
    assert all(len(line["tags"]) == len(line["tokens"]) for line in found)
    assert {tag for line in found for tag in line["tags"]} <= set(LABELS)
    assert found == lines_of(run, file), "the right tags are not looked at"


def test_a_csv_has_lists_of_json(tags, tmp_path):
    run, file = tags
    out = tmp_path / "out.csv"
    typed("predict", run, file, "--out", out)
    with out.open() as lines:
        rows = list(csv.DictReader(lines))
    expected = [(line["tokens"], line["tags"]) for line in lines_of(run, file)]
    assert [(json.loads(row["tokens"]), json.loads(row["tags"])) for row in rows] == expected


def test_a_word_that_is_cut_away_has_no_tag_and_a_row_without_words_says_so(tags, tmp_path):
    file = tmp_path / "asked.jsonl"
    rows = [{"tokens": ["late"] * 30}, {"tokens": "late"}, {"tokens": ["late", "bag"]}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    long, none, short = lines_of(tags[0], file)
    assert [tag is None for tag in long["tags"]] == [False] * 14 + [True] * 16  # max_tokens 16, two of them special
    assert none["error"] == "its tokens are no list of words that the model reads"
    assert None not in short["tags"]


def test_by_type_it_is_seqeval_s_report_of_what_predict_writes(tags):
    run, file = tags
    found = measured(run, file)
    truth = [json.loads(line)["tags"] for line in file.read_text().splitlines()]
    said = [line["tags"] for line in lines_of(run, file)]
    theirs = classification_report(truth, said, output_dict=True, zero_division=0)
    own = found["entities"]["TOWN"]
    expected = [theirs["TOWN"][key] for key in ("precision", "recall", "f1-score")]
    assert [own[key]["value"] for key in ("precision", "recall", "f1")] == pytest.approx(expected, abs=1e-9)
    assert own["there"] == theirs["TOWN"]["support"] == len(truth)
    assert found["metrics"]["f1"] == own["f1"], "there is one type"
    assert own["f1"]["stderr"] > 0
    assert tuple(found["by_client"]) == CLIENTS
    assert "TOWN" in typed("eval", run, file).stdout


def test_an_error_is_that_of_a_ratio_of_sums_over_rows():
    """Two rows: F1 = 2 (1 + 0) / (2 + 2) = 1/2; residuals ±(1/4); √(2/1 · 2/16) = 1/2."""
    assert figure([Mean(2, 2, 0.0), Mean(0, 2, 0.0)]) == Figure(0.5, 0.5, 2)


def test_where_no_row_has_an_entity_the_figure_is_of_no_row_and_has_no_error():
    nothing, one = [Mean(0, 0, 0.0)] * 3, [Mean(2, 2, 0.0), *[Mean(0, 0, 0.0)] * 2]
    assert figure(nothing) == Figure(0.0, None, 0)
    assert difference(one, nothing) == Figure(1.0, None, 0)


def test_rows_without_entities_are_measured_and_their_client_is_not_the_worst(tags, tmp_path):
    run, file = tags
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    alone = tmp_path / "alone.jsonl"
    alone.write_text("".join(json.dumps({"tokens": [word]}) + "\n" for word in PLAIN))
    word = next(line["tokens"] for line in lines_of(run, alone) if line["tags"] == ["O"])
    quiet = {"tokens": word, "tags": ["O"], "client": "nobody"}
    some = tmp_path / "some.jsonl"
    some.write_text("".join(json.dumps(row) + "\n" for row in [*rows, quiet]))
    found = measured(run, some)
    assert found["by_client"]["nobody"]["f1"] == {"value": 0.0, "stderr": None, "rows": 0}
    assert found["worst_client"]["client"] != "nobody"
