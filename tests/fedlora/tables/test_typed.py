"""JSON and Parquet: one rule from a value to its text, and a refusal by row and kind for what has none."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from fedlora.settings import SettingsError
from fedlora.tables import read_table

KINDS = [st.text(st.characters(exclude_categories=["Cs"])), st.integers(-(2**62), 2**62), st.booleans()]
COLUMN = st.one_of(*(st.lists(kind, min_size=1, max_size=6) for kind in KINDS))


def said(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def jsonl(path: Path, values: list[object]) -> Path:
    path.write_text("".join(json.dumps({"label": value}) + "\n" for value in values), encoding="utf-8")
    return path


def listed(path: Path, values: list[object]) -> Path:
    path.write_text(json.dumps([{"label": value} for value in values], indent=1), encoding="utf-8")
    return path


def columnar(path: Path, values: list[object]) -> Path:
    parquet.write_table(pyarrow.table({"label": values}), path)
    return path


FORMS = {"a.jsonl": jsonl, "a.json": listed, "a.parquet": columnar}


def labels(path: Path) -> list[str]:
    return [record.cells["label"] for record in read_table(path, ("label",))]


@pytest.mark.parametrize("name", FORMS)
@given(COLUMN)
def test_texts_whole_numbers_and_truth_values_are_read_as_they_are_written(tmp_path_factory, name, values):
    assert labels(FORMS[name](tmp_path_factory.mktemp("t") / name, values)) == [said(value) for value in values]


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.5, 2.0], r"(row|line) 1, column 'label': numbers with a fraction; write them as text"),
        ([["a"], ["b"]], r"(row|line) 1, column 'label': a list; give a column of plain texts"),
        ([{"a": 1}, {"a": 2}], r"(row|line) 1, column 'label': a structure"),
    ],
)
def test_a_value_without_a_text_of_its_own_is_refused(tmp_path, name, values, message):
    with pytest.raises(SettingsError, match=message):
        labels(FORMS[name](tmp_path / name, values))


@pytest.mark.parametrize("form", [jsonl, listed])
def test_two_kinds_in_one_column_are_refused_by_row_and_kinds(tmp_path, form):
    path = form(tmp_path / ("a.jsonl" if form is jsonl else "a.json"), [1, 0, True])
    with pytest.raises(SettingsError, match="3, column 'label': true/false, and whole numbers before"):
        labels(path)


@pytest.mark.parametrize("name", FORMS)
def test_what_is_not_there_is_empty(tmp_path, name):
    assert labels(FORMS[name](tmp_path / name, ["a", None])) == ["a", ""]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"label": "x"}\n{"label": \n', r"line 2: not JSON at column \d+ .*an object a line"),
        ("a.jsonl", '{"label": "x", "label": "y"}\n', r"line 1: the key 'label' stands twice"),
        ("a.jsonl", '["x"]\n["y"]\n', r"the list: not JSON"),
        ("a.json", '["x"]', r"row 1: not an object"),
        ("a.jsonl", '{"other": "x"}\n', r"has no column 'label'; it has 'other'"),
        ("a.json", "[" * 100_000, r"nested too deeply"),
        ("a.parquet", "not parquet", r"is no Parquet file, or a damaged one"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(SettingsError, match=message):
        labels(path)


def test_bytes_are_text_where_they_are_utf8(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"label": pyarrow.array(["naïve".encode(), b"b"], pyarrow.binary())}), path)
    assert labels(path) == ["naïve", "b"]
    parquet.write_table(pyarrow.table({"label": pyarrow.array([b"\xff"], pyarrow.binary())}), path)
    with pytest.raises(SettingsError, match="row 1, column 'label': bytes that are not UTF-8"):
        labels(path)


def test_repeated_columns_of_a_parquet_file_are_refused(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(
        pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], ["label", "label"]), path
    )
    with pytest.raises(SettingsError, match="more than one column 'label'"):
        labels(path)
