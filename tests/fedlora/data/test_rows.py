"""Files that cannot be used are refused with the file, the row and the way out; no copy of the data is left."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from fedlora.data.form import Columns
from fedlora.data.one_per_text import Counts
from fedlora.data.row import Row, text_row
from fedlora.data.rows import read_rows, read_source
from fedlora.settings import SettingsError


def write(folder: Path, name: str, content: str) -> str:
    path = folder / name
    path.write_text(content)
    return str(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.csv", "", r"cannot read .*empty\.csv: it is empty; the first line must name the columns"),
        ("words.csv", "words,label\nhello,a\n", r"data\.text='text': .*no such column; it has words, label"),
        ("not.parquet", "hello", r"cannot read .*not\.parquet"),
        (
            "plain.txt",
            "hello",
            r"plain\.txt': give `airlines`, `organisations`, .*`digits`, `fashion`, a local \.bio, \.conll, \.csv",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path, name, content, message):
    with pytest.raises(SettingsError, match=message):
        read_rows(write(tmp_path, name, content), Columns())


GAPS = {
    "gap.csv": b"text,label\nhello,a\n,b\nbye,\n   ,a\none,b,c\nshort\n\nlat\xedn,a\nho,b\n",
    "gap.jsonl": b"""{"text": "hello", "label": "a"}
{"text": "", "label": "b"}
{"text": "bye", "label": null}
{"label": "a"}
{"text": "x", "label": "a
["x", "a"]
{"text": ["x"], "label": "a"}
{"text": "half \\ud800", "label": "a"}

{"text": "ho", "label": "b"}
""",
}
WHY = {
    "gap.csv": {
        "nothing in column 'text'": 2, "nothing in column 'label'": 1, "more cells than columns": 1,
        "fewer cells than columns": 1, "not UTF-8 in column 'text'": 1,
    },
    "gap.jsonl": {
        "nothing in column 'text'": 2, "nothing in column 'label'": 1, "not JSON": 1, "not a JSON object": 1,
        "a list in column 'text'": 1, "not UTF-8 in column 'text'": 1,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", GAPS)
def test_rows_that_cannot_be_used_are_left_out_and_counted_by_their_reason(tmp_path, name):
    (tmp_path / name).write_bytes(GAPS[name])
    read = read_source(str(tmp_path / name), Columns())
    assert [(row["text"], row.label) for row in read.rows] == [("hello", "a"), ("ho", "b")]
    assert dict(read.counts.unusable) == WHY[name]
    assert read.counts.read == 2 + sum(WHY[name].values())


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "odd",
    [
        '{"words": "x"}',
        '{"text": "x"}',
        '{"text": "x", "label": "y", "more": ' + "9" * 5000 + "}",
        '{"text": "x", "label": "y", "more": ' + DEEP + "}",
        '{"text": "x", "label": "y", "more": ',
    ],
    ids=["no column", "no label", "a long number", "deep", "cut"],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_one_odd_row_takes_no_other_with_it(tmp_path, name, odd):
    rows = [f'{{"text": "note {number}", "label": "a"}}' for number in range(5)]

    def read(lines: list[str]) -> set[Row]:
        content = "\n".join(lines) if name == "a.jsonl" else "[" + ",\n".join(lines) + "]"
        return set(read_rows(write(tmp_path, name, content), Columns()))

    assert len(read(rows) ^ read([*rows, odd])) <= 1


def test_the_only_row_of_a_file_may_go(tmp_path):
    write(tmp_path, "a.csv", "text,label\nhello,a\n")
    write(tmp_path, "b.jsonl", '{"text": "bye", "label": "a"}\n')
    assert len(read_rows(str(tmp_path), Columns())) == 2
    write(tmp_path, "b.jsonl", "")
    assert [row["text"] for row in read_rows(str(tmp_path), Columns())] == ["hello"]


def test_one_odd_cell_of_a_parquet_file_takes_its_row_alone(tmp_path):
    texts = pyarrow.array([b"hello", b"\xff", b"bye"], pyarrow.binary()).view(pyarrow.string())
    times = pyarrow.array([0, 2**62, 0], pyarrow.int64()).view(pyarrow.timestamp("us"))
    parquet.write_table(pyarrow.table({"text": texts, "label": ["a"] * 3, "when": times}), tmp_path / "a.parquet")
    read = read_source(str(tmp_path / "a.parquet"), Columns())
    assert [row["text"] for row in read.rows] == ["hello", "bye"]
    assert dict(read.counts.unusable) == {"not UTF-8 in column 'text'": 1}


@pytest.mark.parametrize("gap", [",", "no number,7", ",3"])
def test_how_a_row_is_read_does_not_depend_on_the_others(tmp_path, gap):
    """A reader that guesses a column's type turns every 0 into 0.0 because one cell is empty."""
    whole = "text,label\n007,0\n1e5,1\nNA,0\n"
    rows = read_rows(write(tmp_path, "numbers.csv", whole), Columns())
    assert rows == [text_row("007", "0", ""), text_row("1e5", "1", ""), text_row("NA", "0", "")]
    assert set(rows) <= set(read_rows(write(tmp_path, "more.csv", whole + gap + "\n"), Columns()))


def test_one_value_of_another_type_spoils_no_json_file(tmp_path):
    lines = '{"text": "a", "label": 0}\n{"text": "b", "label": "1"}\n{"text": 5, "label": true}\n'
    rows = read_rows(write(tmp_path, "mixed.jsonl", lines), Columns())
    assert [(row["text"], row.label) for row in rows] == [("a", "0"), ("b", "1"), ("5", "true")]


def test_a_json_file_may_be_one_list(tmp_path):
    rows = read_rows(write(tmp_path, "list.json", '\n[{"text": "a",\n "label": "x"}, 3]'), Columns())
    assert rows == [text_row("a", "x", "")]


def test_rows_of_a_class_that_is_not_declared_are_left_out_by_themselves(tmp_path):
    path = write(tmp_path, "more.csv", "text,label\nhi,x\nho,y\nho,strange\n")
    read = read_source(path, Columns(), labels=("x", "y"))
    assert [row["text"] for row in read.rows] == ["hi", "ho"]
    assert read.counts == Counts(3, 2, unusable=(("a class that is not declared", 1),))


def test_a_folder_is_all_its_files_in_order_of_name(tmp_path):
    write(tmp_path, "b.csv", "text,label\nthree,y\none,x\n")
    write(tmp_path, "a.csv", "text,label\none,x\ntwo,x\n")
    write(tmp_path, "notes.md", "not data")
    rows = read_rows(str(tmp_path), Columns())
    assert [(row["text"], row.label) for row in rows] == [("one", "x"), ("two", "x"), ("three", "y")]


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="or a folder of such files"):
        read_rows(str(tmp_path), Columns())


def test_reading_leaves_no_copy_of_the_data(tmp_path, monkeypatch):
    home = tmp_path / "home"
    for name in ("HOME", "XDG_CACHE_HOME", "HF_HOME", "TMPDIR"):
        monkeypatch.setenv(name, str(home))
    read_rows(write(tmp_path, "secret.csv", "text,label\nsecret words,x\n"), Columns())
    assert not home.exists()


def test_numbers_as_labels_are_class_names(tmp_path):
    rows = read_rows(write(tmp_path, "n.csv", "text,label\nhello,0\nbye,1\n"), Columns())
    assert [row.label for row in rows] == ["0", "1"]


def test_a_repeated_text_is_one_example_and_one_of_several_classes_is_none(tmp_path):
    read = read_source(write(tmp_path, "r.csv", "text,label\nhi,x\nhi,y\nho,y\nho,y\nha,x\n"), Columns())
    assert [(row["text"], row.label) for row in read.rows] == [("ho", "y"), ("ha", "x")]
    assert read.counts == Counts(5, 2, repeated=1, conflicting=2)


def test_clients_repeat_texts_without_knowing_of_each_other(tmp_path):
    path = write(tmp_path, "c.csv", "text,label,client\nhi,x,p\nhi,y,q\nhi,y,q\nho,x,p\nho,y,p\n")
    read = read_source(path, Columns(client="client"))
    assert read.rows == (text_row("hi", "x", "p"), text_row("hi", "y", "q"))
