"""Files that cannot be used are refused with the file, the row and the way out; no copy of the data is left."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from client.rows import Columns, distinct, read_rows
from client.site_data import SiteDataSettings, site_examples
from fedlora.config import ModelSettings
from fedlora.settings import SettingsError
from tests.federations import CLIENTS


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


@pytest.fixture
def own(messages, tiny_model):
    def load(**settings):
        values = {"source": messages, "client_column": "client", "client": "red", "test_fraction": 0.25, **settings}
        model = ModelSettings(id=tiny_model, max_tokens=16)
        return site_examples(SiteDataSettings(**values), name="red", labels=("bad", "good"), model=model)

    return load


def test_a_site_sees_its_own_rows_only_and_always_splits_them_alike(own):
    first, again = own(), own()
    assert (len(first.train), len(first.test)) == (30, 10)
    assert all((a == b).all() for a, b in zip(first.test.token_ids, again.test.token_ids, strict=True))
    train = {tuple(row.tolist()) for row in first.train.token_ids}
    assert not train & {tuple(row.tolist()) for row in first.test.token_ids}
    assert len(own(max_examples=5).train) == 5


def test_a_site_without_rows_is_told_which_there_are(own):
    with pytest.raises(SettingsError, match=rf"data\.client='rot' has no row in .*; there are: {', '.join(CLIENTS)}"):
        own(client="rot")
    with pytest.raises(SettingsError, match=r"set data\.client_column"):
        own(client_column=None)


def test_a_class_that_the_run_does_not_have_is_refused(messages, tiny_model):
    with pytest.raises(SettingsError, match="the label 'bad' is not one of the run's classes: fine, good"):
        site_examples(
            SiteDataSettings(source=messages),
            name="red",
            labels=("fine", "good"),
            model=ModelSettings(id=tiny_model, max_tokens=16),
        )
