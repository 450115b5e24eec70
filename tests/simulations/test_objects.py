"""A run on objects of this process is the run on the same things in files, to the byte."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

import fedlora
from fedlora.data.form import MESSAGES, TEXT, TEXT_AND_LABEL, Columns
from fedlora.models.base import load_base
from fedlora.models.given import given_model
from fedlora.settings import SettingsError
from simulations.objects.rows import files_given, table_of
from simulations.terminal.pictures import draw_curves
from tests.federations import CLIENTS


@pytest.fixture
def rows(messages) -> dict[str, list[dict[str, str]]]:
    """The tiny federation's file, client by client, without the column that says so."""
    found = defaultdict(list)
    with Path(messages).open() as file:
        for row in csv.DictReader(file):
            found[row.pop("client")].append(row)
    return dict(found)


def adapter_of(result) -> bytes:
    return (result.adapter / "adapter_model.safetensors").read_bytes()


def test_rows_and_model_as_objects_give_the_adapter_that_files_give(recipe, rows, tiny_model, tmp_path):
    asked = recipe("rounds.count=2")
    files = fedlora.simulate(asked, out=tmp_path / "files")
    model, heard = AutoModel.from_pretrained(tiny_model), []
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    given = fedlora.simulate(
        asked,
        out=tmp_path / "objects",
        clients={name: iter(own) for name, own in rows.items()},
        model=(model, AutoTokenizer.from_pretrained(tiny_model)),
        progress=heard.append,
    )
    assert adapter_of(given) == adapter_of(files)
    assert given.rounds == tuple(heard)
    assert [(one.number, one.count, one.trained) for one in heard] == [(1, 2, 4), (2, 2, 4)]
    assert given.score == files.score == heard[-1].score
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items()), "the object is as it was"


def test_a_result_is_loaded_answers_and_is_compared(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("simulations.run.draw_curves", draw_curves)  # as it ships
    result = fedlora.simulate(recipe("rounds.count=1"), out=tmp_path / "run", settings={"train.steps": 3})
    adapter = fedlora.load(result)
    assert (adapter.task, adapter.labels) == ("sequence-classification", ("bad", "good"))
    first, second = adapter.predict(["great crew", {"text": "the bag was lost"}])
    assert first.keys() == second.keys() == {"label", "probability", "p(bad)", "p(good)"}
    again = fedlora.load(result.folder).predict(["great crew", "the bag was lost"])
    assert again == [first, second]
    table = fedlora.compare([result, result.folder], out=tmp_path / "both")
    assert [row["method"] for row in table.rows] == [result.summary["name"]]
    assert "accuracy" in str(table)
    assert result._repr_png_()[:4] == b"\x89PNG"
    assert str(result).startswith("accuracy 0.")


class Frame:
    """Of pandas what is used: iterating gives columns, `to_dict` gives rows."""

    def __init__(self, rows):
        self.rows, self.iloc = rows, None

    def __iter__(self):
        return iter(self.rows[0])

    def to_dict(self, how):
        assert how == "records"
        return self.rows


def test_a_data_frame_is_its_rows_and_not_its_columns(recipe, rows):
    plain, _ = files_given(rows, recipe().data, "sequence-classification")
    framed, _ = files_given({name: Frame(own) for name, own in rows.items()}, recipe().data, "sequence-classification")
    assert [file.table.rows for file in framed] == [file.table.rows for file in plain]
    assert sorted(str(file.client) for file in plain) == list(CLIENTS)


def test_the_format_is_the_first_that_the_rows_have_all_columns_of(recipe):
    talk = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    _, settings = files_given({"one": talk}, recipe().data, "causal-lm")
    assert settings.format == MESSAGES.name


def test_bare_texts_are_rows_of_a_task_that_reads_texts_alone_and_of_no_other(recipe):
    rows = {"north": ["great crew", {"text": "late bag"}], "south": ["lost"]}
    plain = {name: [row if isinstance(row, dict) else {"text": row} for row in own] for name, own in rows.items()}
    named = recipe().data.model_copy(update={"format": "text", "columns": {"text": "body"}})
    (found, settings), (wanted, _) = (files_given(one, recipe().data, "causal-lm") for one in (rows, plain))
    assert settings.format == TEXT.name
    assert [file.table for file in found] == [file.table for file in wanted]
    assert files_given({"one": ["a"]}, named, "causal-lm")[0][0].table.names == ("body",)
    (refused,), _ = files_given({"one": ["great crew"]}, recipe().data, "sequence-classification")
    assert refused.table.rows[0].what == "no mapping of column names to values"
    talk = recipe().data.model_copy(update={"format": MESSAGES.name})
    (refused,), _ = files_given({"one": ["great crew"]}, talk, "causal-lm")
    assert refused.table.rows[0].what == "no mapping of column names to values"


def test_what_is_wrong_with_one_row_costs_that_row():
    table = table_of([{"text": "a", "label": 1}, {"text": "b", "label": 0.5}, "c"], Columns(TEXT_AND_LABEL))
    assert table.rows[0] == ("a", "1")
    assert [(row.line, row.what) for row in table.rows[1:]] == [
        (2, "a number with a fraction, or beyond 2**53 in column 'label'"),
        (3, "no mapping of column names to values"),
    ]


@pytest.mark.parametrize(
    ("clients", "said"),
    [
        ([{"text": "a"}], "give the rows of each client by its name"),
        ({"north": "rows.csv"}, r"clients\['north'\] is a str; give a dataset"),
        ({"north": [{"txt": "a", "label": "b"}]}, "data.text='text': north has no such column; did you mean 'txt'"),
        ({"north": [{"text": "a", "label": 0.5}]}, "north row 1: a number with a fraction"),
    ],
)
def test_what_is_no_rows_is_refused_with_the_client_and_the_row(recipe, tmp_path, clients, said):
    with pytest.raises(SettingsError, match=said):
        fedlora.simulate(recipe(), out=tmp_path / "run", clients=clients)


def test_a_given_model_has_the_fingerprint_of_the_folder_it_came_from(recipe, tiny_model):
    settings = recipe().model
    wanted = load_base(settings, ("a", "b")).fingerprint
    model = AutoModel.from_pretrained(tiny_model)
    with given_model(model, AutoTokenizer.from_pretrained(tiny_model)) as name:
        assert load_base(settings.model_copy(update={"id": name}), ("a", "b")).fingerprint == wanted


def test_what_is_no_model_is_refused(recipe, tmp_path):
    with pytest.raises(SettingsError, match=r"as in model=\(model, tokenizer\); a str is neither"):
        fedlora.simulate(recipe(), out=tmp_path / "run", model=("demo", "demo"))


def test_settings_are_changed_by_their_dotted_names_with_the_same_errors(tmp_path):
    with pytest.raises(SettingsError, match=r"unknown setting train\.lrr; did you mean train\.lr"):
        fedlora.simulate({"train": {"lr": 0.1}}, out=tmp_path, settings={"train.lrr": 0.2})
