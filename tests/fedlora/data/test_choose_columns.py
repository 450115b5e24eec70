"""Which of several columns is taken for the class: what the words of the text tell, before what a name says."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fedlora.data.choose_columns import Chosen, choose
from fedlora.data.columns import columns_in
from fedlora.data.told_by_words import told
from fedlora.settings import SettingsError

KINDS = {"billing": "why was I charged twice", "broken": "it has a crack", "lost": "no sign of my parcel"}
FILLING = ("kettle", "lamp", "chair", "today", "please", "hello", "again", "order")


def tickets(
    path: Path, kind: str, other: str, *, certain: float = 1.0, other_by_kind: float = 0.0, count: int = 300
) -> Path:
    """Texts about a kind of thing, which so many say in words; `other` is chance, or whether it is the first kind."""
    draw = random.Random(0)
    lines = [f"Ticket No.,What they wrote,{kind},{other}"]
    for number in range(count):
        about = draw.choice(list(KINDS))
        said = KINDS[about if draw.random() < certain else draw.choice(list(KINDS))]
        urgent = about == "billing" if draw.random() < other_by_kind else draw.random() < 0.5
        words = " ".join(draw.choices(FILLING, k=4))
        lines.append(f"T-{number},{words} {said} {number},{about},{('low', 'high')[urgent]}")
    path.write_text("\n".join(lines) + "\n")
    return path


def chosen(path: Path, **named: str) -> Chosen:
    return choose(columns_in(str(path)), str(path), **named)


def test_what_the_words_tell_is_the_class_whatever_another_is_called(tmp_path):
    label = chosen(tickets(tmp_path / "t.csv", "Handled As", "priority")).label
    assert label.column.name == "Handled As"
    assert "words of the text tell it 100 % of the time, guessing 3" in label.why
    assert label.why.endswith("3 classes (if the class is 'priority', say so with --label)")


def test_a_name_counts_where_the_words_tell_both(tmp_path):
    path = tickets(tmp_path / "t.csv", "Handled As", "priority", other_by_kind=0.9)
    label = chosen(path).label
    assert label.column.name == "priority"
    assert label.why.startswith("by its name, and words of the text tell it ")


def test_a_column_that_is_called_label_and_nothing_else_is_the_class(tmp_path):
    assert chosen(tickets(tmp_path / "t.csv", "Handled As", "Label")).label.column.name == "Label"
    assert chosen(tickets(tmp_path / "u.csv", "Handled As", "travel class")).label.column.name == "Handled As"


def test_where_words_tell_none_the_name_decides_and_it_is_said(tmp_path):
    label = chosen(tickets(tmp_path / "t.csv", "Handled As", "priority", certain=0.0)).label
    assert label.column.name == "priority"
    assert (
        "by its name, though words of the text tell none of them, 2 classes (if the class is 'Handled As'" in label.why
    )


def test_chance_tells_nothing_and_rare_words_are_no_knowledge():
    draw = random.Random(1)
    by_chance = {f"text {n} {draw.random()}": draw.choice("abc") for n in range(400)}
    assert told(by_chance).gain == 0
    assert told({f"{word} {n}": word for n in range(200) for word in ("good", "bad")}).gain == 1
    assert told({"alone": "a"}).gain == told({}).gain == 0


def test_texts_without_blanks_tell_by_their_characters():
    assert (
        told({f"号码{chr(0x4E00 + n)}的航班{word}了": word for n in range(100) for word in ("晚点", "准时")}).gain == 1
    )


def test_a_row_s_number_is_no_client_and_columns_that_would_do_are_named(tmp_path):
    path = tickets(tmp_path / "t.csv", "Handled As", "shift")
    message = (
        r"--client 'Ticket No\.' has 300 different values in 300 rows, so every row would be a client of its own\. "
        r"Columns that would do: 'shift' \(2 values\); or leave --client out, and rows are dealt by chance\."
    )
    with pytest.raises(SettingsError, match=message):
        chosen(path, client="Ticket No.")
    assert chosen(path, client="shift").client is not None


def test_of_two_columns_that_are_called_like_organisations_the_other_is_named_too(tmp_path):
    path = tickets(tmp_path / "t.csv", "hospital", "region", count=200)
    rows = path.read_text().splitlines()
    kinds = [f"{row},{('good', 'bad')[number % 2]}" for number, row in enumerate(rows[1:])]
    path.write_text("\n".join([f"{rows[0]},mood", *kinds]) + "\n")
    client = chosen(path).client
    assert client is not None
    assert client.column.name == "region"
    assert client.why.endswith("(if 'hospital' says whose a row is, name it with --client)")
