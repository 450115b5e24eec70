"""Pieces of pages: what comes from outside is escaped, every number has a unit, every cell a label."""

from __future__ import annotations

import doctest
import re
from dataclasses import fields, replace

from markupsafe import Markup

from fedlora.tasks.guessing import ACCURACY
from server.dashboard.drawing import units
from server.dashboard.drawing.markup import Column, Row, badge, bar, figures, link, moment, note, pairs, table
from server.dashboard.drawing.markup import Figure as OneFigure
from server.dashboard.drawing.run_charts import quality_chart
from server.dashboard.drawing.theme import LIGHT
from server.store.rows import RoundRow

EVIL = '"><img src=x onerror=alert(1)>'
COLUMNS = (Column("Site"), Column("Sent", number=True, hint=EVIL))


def tags(markup: Markup) -> set[str]:
    return set(re.findall(r"<(\w+)", markup))


def test_whatever_is_not_markup_is_escaped_everywhere():
    for made in (
        table(EVIL, COLUMNS, [Row(EVIL, (EVIL, EVIL))], empty=""),
        table("none", COLUMNS, [], empty=EVIL),
        figures([OneFigure(EVIL, EVIL, EVIL)]),
        pairs([(EVIL, EVIL)]),
        badge(EVIL),
        link(EVIL, EVIL),
        bar(0.5, EVIL),
        note(f"`{EVIL}` {EVIL}"),
    ):
        assert "img" not in tags(made)
        assert "&lt;img" in made


def test_a_cell_says_its_column_and_a_row_its_heading():
    made = table("Sites", COLUMNS, [Row("a", ("a", "1 kB"))], empty="")
    assert "<caption>Sites</caption>" in made
    assert '<th scope="row" data-label="Site">a</th>' in made
    assert '<td data-label="Sent" class="number">1 kB</td>' in made


def test_a_table_without_rows_says_what_to_do():
    assert table("Runs", COLUMNS, [], empty="Start one with `fedlora simulate`.") == note(
        "Start one with `fedlora simulate`."
    )
    assert "<code>fedlora simulate</code>" in note("Start one with `fedlora simulate`.")


def test_a_time_is_in_utc_for_machines_and_on_hover():
    made = moment(1_764_076_501.5)
    assert 'datetime="2025-11-25T13:15:01.500+00:00"' in made
    assert 'title="2025-11-25 13:15:01 UTC"' in made
    assert moment(None) == "–"


def test_a_bar_says_its_share_and_stays_within_its_frame():
    assert 'aria-valuenow="100.0"' in bar(1.7, "spent")
    assert "width:0.0%" in bar(-1, "spent")


def test_the_examples_of_units_hold():
    assert doctest.testmod(units).failed == 0


def test_a_chart_without_lines_says_so_until_it_has_some():
    measured = RoundRow(**{**dict.fromkeys(field.name for field in fields(RoundRow)), "round": 1, "score": 0.5})
    unmeasured = replace(measured, score=None)
    texts = [
        quality_chart(LIGHT, rounds, [], ACCURACY)["title"]["text"] for rounds in ([unmeasured], [unmeasured, measured])
    ]
    assert texts == ["nothing was measured", ""]
