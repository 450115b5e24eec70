"""Files that cannot be used are refused with the file, the row and the way out; no copy of the data is left."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from fedlora.rows import Columns, distinct, read_rows
from fedlora.settings import SettingsError


def write(folder: Path, name: str, content: str) -> str:
    path = folder / name
    path.write_text(content)
    return str(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gap.csv", "text,label\nhello,a\n,b\n", r"gap\.csv: row 2 has nothing in column 'text'; fill it in"),
        ("gap.csv", "text,label\nhello,a\nbye,\n", r"row 2 has nothing in column 'label'"),
        ("empty.csv", "", r"cannot read .*empty\.csv: No columns"),
        ("broken.jsonl", '{"text": "a", "label": "x"}\n{"text": \n', r"cannot read .*broken\.jsonl: JSON parse error"),
        ("plain.txt", "hello", r"plain\.txt': give `airlines` or `organisations`, a local \.csv"),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pandas leaves a broken file open
def test_a_file_that_cannot_be_used_is_refused(tmp_path, name, content, message):
    with pytest.raises(SettingsError, match=message):
        read_rows(write(tmp_path, name, content), Columns())


def test_a_folder_is_all_its_files_in_order_of_name(tmp_path):
    write(tmp_path, "b.csv", "text,label\nthree,y\none,y\n")
    write(tmp_path, "a.csv", "text,label\none,x\ntwo,x\n")
    write(tmp_path, "notes.md", "not data")
    rows = read_rows(str(tmp_path), Columns())
    assert [(row.text, row.label) for row in rows] == [("one", "x"), ("two", "x"), ("three", "y")]


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="or a folder of such files"):
        read_rows(str(tmp_path), Columns())


def test_reading_leaves_no_copy_of_the_data_in_the_cache(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    read_rows(write(tmp_path, "secret.csv", "text,label\nsecret words,x\n"), Columns())
    assert not [path for path in cache.rglob("*") if path.is_file() and b"secret words" in path.read_bytes()]


def test_numbers_as_labels_are_class_names(tmp_path):
    rows = read_rows(write(tmp_path, "n.csv", "text,label\nhello,0\nbye,1\n"), Columns())
    assert [row.label for row in rows] == ["0", "1"]


def test_distinct_keeps_the_first_of_a_repeated_text(tmp_path):
    rows = read_rows(write(tmp_path, "r.csv", "text,label\nhi,x\nhi,y\nho,y\n"), Columns())
    assert rows == distinct(rows)
    assert [(row.text, row.label) for row in rows] == [("hi", "x"), ("ho", "y")]
