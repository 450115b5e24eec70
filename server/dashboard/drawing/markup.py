"""Pieces of HTML. Whatever is not Markup is escaped: names and codes come from other people's machines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from markupsafe import Markup

from server.dashboard.drawing.units import NOTHING

Tone = Literal["plain", "good", "busy", "warn", "bad"]


@dataclass(frozen=True)
class Column:
    """`number`: aligned right. `wide`: what a narrow screen shows as the row's heading."""

    label: str
    number: bool = False
    hint: str = ""


@dataclass(frozen=True)
class Row:
    """`key` keeps the row's place in the page when others come and go."""

    key: str
    cells: Sequence[str]
    tone: Tone = "plain"


@dataclass(frozen=True)
class Figure:
    """One number at the top of a page."""

    label: str
    value: str
    note: str = ""
    tone: Tone = "plain"
    hint: str = field(default="")


def moment(at: float | None, form: Literal["clock", "ago"] = "clock") -> Markup:
    """A time: the browser writes it in its own zone (drawn.js); UTC is what hovering shows."""
    if at is None:
        return Markup(NOTHING)
    utc = datetime.fromtimestamp(at, UTC)
    text = utc.strftime("%Y-%m-%d %H:%M:%S UTC")
    return Markup('<time datetime="{}" data-form="{}" title="{}">{}</time>').format(
        utc.isoformat(timespec="milliseconds"), form, text, text
    )


def badge(text: str, tone: Tone = "plain") -> Markup:
    return Markup('<span class="badge {}">{}</span>').format(tone, text)


def link(target: str, text: str) -> Markup:
    return Markup('<a href="{}">{}</a>').format(target, text)


def bar(share: float, label: str, tone: Tone = "busy") -> Markup:
    """A share of one, as a bar with its text for those who do not see it."""
    percent = f"{100 * min(1.0, max(0.0, share)):.1f}"
    return Markup(
        '<span class="bar {}" role="progressbar" aria-label="{}" aria-valuenow="{}" aria-valuemin="0"'
        ' aria-valuemax="100"><span style="width:{}%"></span></span>'
    ).format(tone, label, percent, percent)


def table(caption: str, columns: Sequence[Column], rows: Iterable[Row], *, empty: str) -> Markup:
    """A table; on a narrow screen every row becomes a card, its cells labelled by their columns."""
    lines = [_row(columns, row) for row in rows]
    if not lines:
        return note(empty)
    heads = [
        Markup('<th scope="col"{}{}>{}</th>').format(
            Markup(' class="number"') if column.number else "",
            Markup(' title="{}"').format(column.hint) if column.hint else "",
            column.label,
        )
        for column in columns
    ]
    return Markup(
        '<table class="rows"><caption>{}</caption><thead><tr>{}</tr></thead><tbody>{}</tbody></table>'
    ).format(caption, Markup("").join(heads), Markup("").join(lines))


def _row(columns: Sequence[Column], row: Row) -> Markup:
    cells = []
    for place, (column, cell) in enumerate(zip(columns, row.cells, strict=True)):
        tag = "th" if place == 0 else "td"
        cells.append(
            Markup('<{}{} data-label="{}"{}>{}</{}>').format(
                Markup(tag),
                Markup(' scope="row"') if place == 0 else "",
                column.label,
                Markup(' class="number"') if column.number else "",
                cell,
                Markup(tag),
            )
        )
    return Markup('<tr data-key="{}" class="{}">{}</tr>').format(row.key, row.tone, Markup("").join(cells))


def figures(items: Iterable[Figure]) -> Markup:
    """The numbers at the top of a page."""
    cells = [
        Markup('<div class="figure {}" data-key="{}" title="{}"><dt>{}</dt><dd>{}<small>{}</small></dd></div>').format(
            item.tone, item.label, item.hint, item.label, item.value, item.note
        )
        for item in items
    ]
    columns = 4 if len(cells) % 4 == 0 else 5
    return Markup('<dl class="figures" style="--columns:{}">{}</dl>').format(columns, Markup("").join(cells))


def pairs(items: Iterable[tuple[str, str]]) -> Markup:
    """Names and values, one a line."""
    lines = [Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(name, value) for name, value in items]
    return Markup('<dl class="pairs">{}</dl>').format(Markup("").join(lines))


def note(text: str, tone: Tone = "plain") -> Markup:
    """A sentence that says what to do; `code` between backticks."""
    parts = text.split("`")
    said = Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else Markup.escape(part) for place, part in enumerate(parts)
    )
    role = Markup(' role="alert"') if tone == "bad" else ""
    return Markup('<p class="note {}"{}>{}</p>').format(tone, role, said)
