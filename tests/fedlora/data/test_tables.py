"""Tables guess nothing: every cell is what was written, a complaint has file and line, and a bad row costs itself."""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from fedlora.data.form import Columns
from fedlora.data.row import text_row
from fedlora.data.rows import read_rows, read_source, read_whole
from fedlora.data.tables.reading import read_table
from fedlora.data.tables.table import Complaint
from fedlora.settings import SettingsError

SURPRISES = st.sampled_from([
    "007", "7", "7.0", "1e5", "0x10", "1_000", "NA", "N/A", "null", "None", "nan", "-inf", "true", "True", "FALSE",
    "yes", "no", "2024-01-02", "12:30", "1:30", "~", "-", "''", "#x", "=1+1", "9007199254740993", "½", "１", "1,5",
    "$5", " a ", "\ufeffa",
])  # fmt: skip
WRITTEN = st.one_of(SURPRISES, st.text(st.characters(exclude_categories=("Cs",)), min_size=1)).filter(str.strip)
NAMES = ("text", "label", "client")
ENDINGS = {".csv": ",;\t", ".tsv": "\t"}


def rows_of(path: Path, columns: tuple[str, ...] = NAMES) -> list[object]:
    return list(read_table(path, columns).rows)


@st.composite
def tables(draw) -> list[tuple[str, ...]]:
    return draw(st.lists(st.tuples(WRITTEN, WRITTEN, WRITTEN), min_size=1, max_size=6))


@given(rows=tables(), data=st.data())
def test_a_cell_of_csv_is_what_was_written_whatever_it_looks_like(tmp_path_factory, rows, data):
    ending = data.draw(st.sampled_from(sorted(ENDINGS)))
    separator, mark = data.draw(st.sampled_from(ENDINGS[ending])), data.draw(st.sampled_from(("", "\ufeff")))
    end, quoting = data.draw(  # Python's writer quotes no line break but its own
        st.sampled_from([("\r\n", csv.QUOTE_MINIMAL), *((end, csv.QUOTE_ALL) for end in ("\n", "\r\n", "\r"))])
    )
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=separator, quoting=quoting, lineterminator=end).writerows([NAMES, *rows])
    path = tmp_path_factory.mktemp("csv") / f"a{ending}"
    path.write_bytes((mark + file.getvalue()).encode())
    assert rows_of(path) == rows


@given(rows=tables(), ending=st.sampled_from((".jsonl", ".json", ".parquet")))
def test_text_in_json_and_parquet_is_what_was_written(tmp_path_factory, rows, ending):
    path = tmp_path_factory.mktemp("typed") / f"a{ending}"
    write_objects(path, [dict(zip(NAMES, row, strict=True)) for row in rows])
    assert rows_of(path) == rows


def write_objects(path: Path, objects: list[dict[str, object]]) -> Path:
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(objects), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(objects, indent=1))
    else:
        path.write_text("".join(json.dumps(one) + "\n" for one in objects))
    return path


@given(
    value=st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.integers(-(2**53) + 1, 2**53 - 1).map(float))
)
@pytest.mark.parametrize("ending", [".jsonl", ".json", ".parquet"])
def test_numbers_and_truth_values_have_one_text(tmp_path_factory, value, ending):
    path = write_objects(tmp_path_factory.mktemp("typed") / f"a{ending}", [{"label": value}])
    wanted = str(value).lower() if isinstance(value, bool) else str(int(value))
    assert rows_of(path, ("label",)) == [(wanted,)]


def test_an_empty_cell_does_not_change_how_the_column_is_read(tmp_path):
    """pandas writes whole numbers as floats as soon as one is missing."""
    whole = write_objects(tmp_path / "whole.parquet", [{"label": 3}, {"label": 4}])
    gap = write_objects(tmp_path / "gap.parquet", [{"label": 3.0}, {"label": 4.0}, {"label": float("nan")}])
    assert rows_of(whole, ("label",)) == rows_of(gap, ("label",))[:2] == [("3",), ("4",)]


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.5, "a number with a fraction"), (2.0**53, "beyond 2**53"), (["a"], "a list"), ({"a": 1}, "an object")],
)
def test_what_is_no_text_is_refused_by_its_type_and_row(tmp_path, value, said):
    path = write_objects(tmp_path / "a.jsonl", [{"text": "a", "label": "x"}, {"text": "b", "label": value}])
    found = rows_of(path, ("text", "label"))[1]
    assert isinstance(found, Complaint)
    assert (found.line, said in found.what, "'label'" in found.what) == (2, True, True)


@pytest.mark.parametrize(
    "column",
    [
        pyarrow.array([b"a"], pyarrow.binary()), pyarrow.array([["a"]]), pyarrow.array([{"a": 1}]),
        pyarrow.array([0], pyarrow.timestamp("us")), pyarrow.array([1], pyarrow.decimal128(4, 2)),
    ],
    ids=lambda array: str(array.type),
)  # fmt: skip
def test_a_parquet_column_of_another_type_is_refused_by_its_type(tmp_path, column):
    parquet.write_table(pyarrow.table({"text": column, "label": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(SettingsError, match=r"a\.parquet: column 'text' holds .*; save it as text"):
        read_source(str(tmp_path / "a.parquet"), Columns())


def test_a_column_of_several_types_is_refused_where_the_second_begins(tmp_path):
    objects = [{"text": "a", "label": 0}, {"text": "b", "label": 1}, {"text": "c", "label": True}]
    path = write_objects(tmp_path / "a.jsonl", objects)
    with pytest.raises(SettingsError) as caught:
        read_whole(str(path), Columns())
    assert f"{path}:3: true or false in column 'label', which holds a number on line 1" in str(caught.value)
    assert len(read_rows(str(path), Columns())) == 3  # a site that trains under privacy fails by no row


GOOD = "hello,a\nbye,b\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f"text,label\n{GOOD}one,two,c\n", ":4: more cells than columns"),
        ("text,label\n" + GOOD.replace("\n", ",\n"), ":2: more cells than columns"),
        (f"text,label\n{GOOD}one\n", ":4: fewer cells than columns"),
        (f'text,label\n{GOOD}a 5" pipe,c\n', ":4: a quote inside the cell of column 'text'"),
        (f'text,label\n{GOOD}one, "c"\n', ":4: a quote inside the cell of column 'label'"),
        (f'text,label\n"one"two,c\n{GOOD}', ":2: a quote that is not closed, or text after one"),
        (f'text,label\n"one,c\n{GOOD}', ":2: a quote that is not closed, or text after one"),
        (f'text,label\n"two\nlines",c\n{GOOD}more,cells,here\n', ":6: more cells than columns"),
    ],
)
def test_a_malformed_row_of_csv_is_refused_with_its_line_and_costs_a_site_itself_alone(tmp_path, content, said):
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(SettingsError) as caught:
        read_whole(str(path), Columns())
    assert str(caught.value).startswith(f"{path}{said}")
    assert str(caught.value).endswith("Mend these rows, or take them out.")
    kept = read_rows(str(path), Columns())
    assert {text_row("hello", "a", ""), text_row("bye", "b", "")} <= set(kept) or content.endswith(",\n")


def test_a_file_in_another_encoding_is_to_be_saved_anew_and_not_mended_by_rows(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("text,label\ncafé,a\nthé,b\nplain,a\n".encode("latin-1"))
    with pytest.raises(
        SettingsError, match=r"a\.csv:2: not UTF-8 in column 'text'.\n.*\nThe file is in another encoding"
    ):
        read_whole(str(path), Columns())


def test_the_first_ten_malformed_rows_are_listed(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "one\n" * 12)
    with pytest.raises(SettingsError, match=r"(?s)a\.csv:11: .*and 2 more\.\nMend") as caught:
        read_whole(str(path), Columns())
    assert "a.csv:12" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.jsonl", '{"text": "a", "label": "x"}\n\n{"text": "b", "label": "x", "label": "y"}\n', 3),
        ("a.json", '[{"text": "a", "label": "x"},\n {"text": "b",\n "label": "x"},\n 7]', 4),
        ("a.jsonl", '{"text": "a", "label": "x"}\n{"text": "b"\n', 2),
    ],
)
def test_a_malformed_row_of_json_is_refused_with_its_line(tmp_path, name, content, line):
    (tmp_path / name).write_text(content)
    with pytest.raises(SettingsError, match=rf"{name}:{line}: (?:not|an object that names)"):
        read_whole(str(tmp_path / name), Columns())


def test_a_malformed_row_of_parquet_is_refused_with_its_number(tmp_path):
    texts = pyarrow.array([b"hello", b"\xff"], pyarrow.binary()).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"text": texts, "label": ["a", "a"]}), tmp_path / "a.parquet")
    with pytest.raises(SettingsError, match=r"a\.parquet row 2: not UTF-8 in column 'text'"):
        read_whole(str(tmp_path / "a.parquet"), Columns())


def test_an_empty_cell_is_no_malformed_row(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\nhello,a\n,b\n")
    read = read_whole(str(path), Columns())
    assert dict(read.counts.unusable) == {"nothing in column 'text'": 1}


LINES = st.text(st.sampled_from('ab",;\t x'), max_size=12)


@given(lines=st.lists(LINES, max_size=8), place=st.integers(0, 8), extra=LINES)
def test_any_line_more_costs_no_row_but_those_that_its_quotes_reach(tmp_path_factory, lines, place, extra):
    """A line without a quote that is open touches no other; nothing ever raises."""
    path = tmp_path_factory.mktemp("lines") / "a.csv"

    def read(lines: list[str]) -> list[object]:
        path.write_text("\n".join(["text,label", *lines]) + "\n")
        return [row for row in rows_of(path, ("text", "label")) if not isinstance(row, Complaint)]

    place = min(place, len(lines))
    before, after = read(lines), read([*lines[:place], extra, *lines[place:]])
    if '"' not in extra and '"' not in "".join(lines):
        assert abs(len(before) - len(after)) <= 1


def test_a_quote_that_is_never_closed_costs_its_line_alone(tmp_path):
    rows = [f"note {number},a" for number in range(3000)]
    path = tmp_path / "a.csv"
    for place in (0, 1500, 2999):
        path.write_text("\n".join(["text,label", *rows[:place], '"open,a', *rows[place:]]) + "\n")
        read = read_source(str(path), Columns())
        assert (len(read.rows), read.malformed_count) == (3000, 1)
        assert f":{place + 2}: " in read.malformed[0]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "text,label\nhi,x\n".encode("utf-16"), r"it is UTF-16; save it as UTF-8"),
        ("a.csv", "text,label\nhi,x\n".encode("utf-16-le"), r"it is UTF-16; save it as UTF-8"),
        ("a.csv", b"PK\x03\x04rest", r"a spreadsheet or an archive; save it as UTF-8 CSV"),
        ("a.csv", b"\x1f\x8brest", r"it is compressed; unpack it first"),
        ("a.xlsx", b"PK\x03\x04rest", r"a\.xlsx: it is a spreadsheet or an archive; save it as UTF-8 CSV"),
        ("a.csv.gz", b"\x1f\x8brest", r"a\.csv\.gz: it is compressed"),
        ("a.csv", b"t\xe9xt,label\nhi,x\n", r"its column names are not UTF-8; save the file as UTF-8"),
        ("a.csv", b"text,label,label\nhi,x,y\n", r"2 of its columns are called 'label'; rename all but one"),
        ("a.csv", b'te"xt,label\nhi,x\n', r"line 1 is no list of column names"),
        ("a.csv", b"Text;label\nhi;x\n", r"data\.text='text': .* no such column; did you mean 'Text'\? It has Text"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_refused_with_the_way_out(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SettingsError, match=said):
        read_source(str(tmp_path / name), Columns())


def test_a_spreadsheet_in_a_folder_is_not_passed_over(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\nhi,x\n")
    (tmp_path / "b.xlsx").write_bytes(b"PK\x03\x04")
    with pytest.raises(SettingsError, match=r"b\.xlsx: it is a spreadsheet"):
        read_rows(str(tmp_path), Columns())


def test_a_json_column_that_no_row_has_is_refused_with_the_nearest(tmp_path):
    path = write_objects(tmp_path / "a.jsonl", [{"text": "a", "Label": "x"}])
    with pytest.raises(SettingsError, match=r"data\.label='label': .*did you mean 'Label'\?"):
        read_whole(str(path), Columns())
    assert read_rows(str(path), Columns()) == []


def test_columns_without_a_name_are_nobodys(tmp_path):
    (tmp_path / "a.csv").write_text(",text,label,\n0,hi,x,\n")
    assert read_rows(str(tmp_path / "a.csv"), Columns()) == [text_row("hi", "x", "")]


@pytest.mark.parametrize("name", ["export[1].csv", "*.csv", "a?.csv", "~a.csv", " a.csv", "ä#&.CSV"])
def test_a_path_is_a_path(tmp_path, name):
    for number, other in enumerate(("export1.csv", "aa.csv", "a.csv")):
        (tmp_path / other).write_text(f"text,label\nother {number},x\n")
    (tmp_path / name).write_text("text,label\nhi,x\n")
    assert read_rows(str(tmp_path / name), Columns()) == [text_row("hi", "x", "")]


BY_FILE = Columns(client="client", client_by_file=True)


def test_a_folder_without_a_column_of_clients_has_one_for_every_file(tmp_path):
    (tmp_path / "north.csv").write_text("text,label\nhi,x\n")
    (tmp_path / "south [2].jsonl").write_text('{"text": "ho", "label": "y"}\n')
    assert read_rows(str(tmp_path), BY_FILE) == [text_row("hi", "x", "north"), text_row("ho", "y", "south [2]")]


def test_a_file_that_lacks_the_column_of_clients_is_refused_where_others_have_it_or_somebody_named_it(tmp_path):
    (tmp_path / "north.csv").write_text("text,label\nhi,x\n")
    with pytest.raises(SettingsError, match=r"data\.client_column='hospital': .*north\.csv has no such column"):
        read_rows(str(tmp_path), Columns(client="hospital"))
    with pytest.raises(SettingsError, match=r"data\.client_column='client'"):
        read_rows(str(tmp_path / "north.csv"), BY_FILE)
    (tmp_path / "south.csv").write_text("text,label,client\nho,y,s\n")
    with pytest.raises(SettingsError, match=r"data\.client_column='client': .*north\.csv has no such column"):
        read_rows(str(tmp_path), BY_FILE)


def test_two_files_of_one_name_are_no_one_client(tmp_path):
    for name in ("north.csv", "north.tsv"):
        (tmp_path / name).write_text("text\tlabel\nhi\tx\n")
    with pytest.raises(SettingsError, match="are both 'north'; a client is one file"):
        read_rows(str(tmp_path), BY_FILE)


def test_a_long_file_is_read_whole(tmp_path):
    draw = random.Random(0)
    rows = [(f"text {number}", draw.choice("01"), draw.choice(("007", "07"))) for number in range(10_060)]
    rows[10_055] = ("late", "0.5", "A1")
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([NAMES, *rows])
    read = read_source(str(tmp_path / "a.csv"), Columns(client="client"))
    assert {row.client for row in read.rows} == {"007", "07", "A1"}
    assert {row.label for row in read.rows} == {"0", "1", "0.5"}
