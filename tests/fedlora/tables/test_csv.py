"""A CSV cell is what is written, whatever stands beside it; what cannot be read so is refused by line and column."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlora.settings import SettingsError
from fedlora.tables import read_table

COLUMNS = ("text", "label", "client")
NUMBERS = ["007", "7", "7.0", "1e5", "0x1f", "1.5", "1,5", "9007199254740993", "inf", "-", "2024-01-02"]
WORDS = ["NA", "NaN", "None", "null", "true", "False", "no", "#N/A", "ümlaut", "'", ";"]
SPACED = [" padded ", 'a "quoted" word', "two\nlines", "tab\there"]
TRAPS = NUMBERS + WORDS + SPACED
CELLS = st.one_of(st.sampled_from(TRAPS), st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))


def write(path: Path, rows: list[list[str]], *, separator: str = ",", header: tuple[str, ...] = COLUMNS) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def raw(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def cells(path: Path, columns: tuple[str, ...] = COLUMNS) -> list[tuple[str, ...]]:
    return [tuple(record.cells.values()) for record in read_table(path, columns)]


@given(st.lists(st.lists(CELLS, min_size=3, max_size=3), max_size=8), st.sampled_from([",", ";", "\t"]))
def test_every_cell_comes_back_as_it_was_written(tmp_path_factory, rows, separator):
    path = write(tmp_path_factory.mktemp("csv") / "a.csv", rows, separator=separator)
    assert cells(path) == [tuple(row) for row in rows]


def test_a_cell_late_in_a_long_file_changes_no_cell_before_it(tmp_path):
    rows = [["t", "1", "0012" if i % 2 else "0034"] for i in range(10_060)]
    rows[10_055] = ["t", "0.5", "A1"]
    assert cells(write(tmp_path / "a.csv", rows)) == [tuple(row) for row in rows]


def test_a_path_is_a_path_and_no_pattern(tmp_path):
    write(tmp_path / "export1.csv", [["wrong", "x", "y"]])
    assert cells(write(tmp_path / "export[1].csv", [["right", "x", "y"]])) == [("right", "x", "y")]


def test_a_byte_order_mark_and_blank_lines_are_no_content(tmp_path):
    path = raw(tmp_path, "a.csv", b"\xef\xbb\xbftext,label,client\r\n\r\nhi,x,y\r\n\r\n")
    assert cells(path) == [("hi", "x", "y")]


def test_tab_separated_files_are_read_by_their_name(tmp_path):
    assert cells(raw(tmp_path, "a.tsv", "text\tlabel\tclient\na,b\tc\td\n")) == [("a,b", "c", "d")]


def test_a_record_says_the_line_on_which_it_begins(tmp_path):
    path = raw(tmp_path, "a.csv", 'text,label,client\n"two\nlines",x,y\nlast,x,y\n')
    assert [record.where for record in read_table(path, COLUMNS)] == ["a.csv, line 2", "a.csv, line 4"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"has no first line with the names of its columns"),
        ("text,label\nhi,x\n", r"has no column 'client'; it has 'text', 'label'"),
        ("text,label,label,client\nhi,x,y,z\n", r"more than one column 'label'; rename or remove"),
        ("text,label,client\nhi,x,y,\n", r"line 2: 4 cells under 3 column names"),
        ("text,label,client\nhi,x,y\n\nhi,x\n", r"line 4: 2 cells under 3 column names"),
        ('text,label,client\n"hi" you,x,y\n', r"line 2: a quote \(\"\) inside a cell is not doubled"),
        ('text,label,client\n"hi,x,y\nho,x,y\n', r"never closed"),
        ('"text,label,client\nhi,x,y\n', r"has no column 'text'|in the names of the columns is not closed"),
        ("text,label,client\ncafé,x,y\n".encode("latin-1"), r"line 2, byte 4: not UTF-8; save it as UTF-8"),
        ("text,label,client\nhi,x,y\n".encode("utf-16"), r"is UTF-16; save it as UTF-8"),
        ("text,label,client\nhi,x,y\n".encode("utf-16-le"), r"a NUL byte, as UTF-16 does"),
        (b"PK\x03\x04rest", r"a spreadsheet or an archive"),
    ],
)
def test_what_would_have_to_be_guessed_is_refused(tmp_path, content, message):
    with pytest.raises(SettingsError, match=message):
        cells(raw(tmp_path, "a.csv", content))


def test_no_complaint_repeats_what_a_cell_holds(tmp_path):
    path = raw(tmp_path, "a.csv", "text,label,client\nsecret words,x,y,\n")
    with pytest.raises(SettingsError) as complaint:
        cells(path)
    assert "secret" not in str(complaint.value)
