"""A listing in a narrow terminal: whole columns go, and nothing is cut or wrapped."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from fedlora.listing import listing

HEADINGS = ("run", "id", "strategy", "worst ε", "MB up", "begun")
ROWS = [
    ("six-airlines/northern-clinics-of-the-lakes", "5653a754", "fedsvd", "-", "1.22 (51%)", "11-28 08:36"),
    ("航空", "0a0a0a0a", "fedit", "", "1234567.89", "11-28 08:37"),
]
ORDER = ("strategy", "worst ε", "MB up", "begun")


def lines(width: int) -> list[str]:
    return list(listing(HEADINGS, ROWS, width=width, leave_out=ORDER))


def test_where_there_is_room_all_is_shown():
    assert lines(100) == [
        "run                                        id       strategy worst ε MB up      begun",
        "six-airlines/northern-clinics-of-the-lakes 5653a754 fedsvd   -       1.22 (51%) 11-28 08:36",
        "航空                                       0a0a0a0a fedit            1234567.89 11-28 08:37",
    ]


@pytest.mark.parametrize("width", range(52, 100))
def test_every_line_fits_and_every_cell_that_is_there_is_whole(width):
    *table, last = lines(width)
    gone = last.partition(": ")[2].partition(";")[0].split(", ") if "not shown" in last else []
    assert all(cell_len(line) <= width for line in (table if gone else [*table, last]))
    for row, line in zip(ROWS, table[1:] if gone else [*table[1:], last], strict=True):
        shown = [cell for name, cell in zip(HEADINGS, row, strict=True) if name not in gone]
        assert line.split() == " ".join(shown).split()


def test_what_no_row_has_goes_first_and_then_in_the_order_given():
    assert lines(85)[-1] == "(not shown, too little space: worst ε; --json has all)"
    assert lines(75)[-1] == "(not shown, too little space: worst ε, strategy; --json has all)"


def test_a_name_that_is_wider_than_the_terminal_is_whole_all_the_same():
    assert lines(10)[1].split() == ["six-airlines/northern-clinics-of-the-lakes", "5653a754"]


def test_no_rows_are_headings_alone():
    assert list(listing(HEADINGS, [], width=80)) == ["run id strategy worst ε MB up begun"]
