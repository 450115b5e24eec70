"""Charts as ECharts options: pure functions of rows. Lines differ in markers and names too, so that no chart depends on
colours alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.dashboard.drawing.theme import Palette

Points = Sequence[tuple[float, float | None]]
MARKERS = ("circle", "rect", "triangle", "diamond", "roundRect", "pin", "arrow", "emptyCircle")
FEW = 60
"""Points up to which every one has a marker."""


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    name: str
    points: Points
    dashed: bool = False
    thin: bool = False
    second: bool = False
    """Belongs to the axis on the right."""


@dataclass(frozen=True)
class Axis:
    """`unit` follows every value in the tooltip."""

    name: str
    unit: str = ""
    log: bool = False
    from_zero: bool = False


def lines(
    colours: Palette, series: Sequence[Line], left: Axis, right: Axis | None = None, *, x: str = "round"
) -> dict[str, Any]:
    """Lines over rounds (or over `x`)."""
    axes = [_axis(colours, left)] + ([] if right is None else [_axis(colours, right, grid=False)])
    return {
        **_frame(colours),
        "title": _in_place_of(colours, "" if series else "nothing was measured"),
        "tooltip": _tooltip(colours, left.unit, exponent=left.log),
        "xAxis": _x_axis(colours, x),
        "yAxis": axes,
        "series": [_line(colours, place, line) for place, line in enumerate(series)],
    }


def bars(
    colours: Palette,
    rounds: Sequence[int],
    parts: Mapping[str, Sequence[float]],
    baselines: Mapping[str, Sequence[float | None]],
    *,
    unit: str,
) -> dict[str, Any]:
    """Bars of the bytes sent in each round, and dashed lines for their baselines."""
    x = [str(number) for number in rounds]
    drawn: list[dict[str, Any]] = [
        {
            "name": name,
            "type": "bar",
            "data": list(values),
            "itemStyle": {"color": colours.lines[place]},
            "barMaxWidth": 18,
        }
        for place, (name, values) in enumerate(parts.items())
    ]
    drawn += [
        {
            "name": name,
            "type": "line",
            "data": list(values),
            "symbol": "none",
            "lineStyle": {"type": "dashed", "color": colours.lines[place], "width": 2},
            "itemStyle": {"color": colours.lines[place]},
        }
        for place, (name, values) in enumerate(baselines.items())
    ]
    return {
        **_frame(colours),
        "xAxis": {**_x_axis(colours, "round"), "type": "category", "data": x},
        "yAxis": [_axis(colours, Axis(unit, from_zero=True))],
        "tooltip": _tooltip(colours, unit),
        "series": drawn,
    }


@dataclass(frozen=True)
class Cell:
    """One client in one round: a square of the timeline, and what hovering says of it."""

    round: int
    site: str
    outcome: str
    said: str


def timeline(colours: Palette, cells: Sequence[Cell], sites: Sequence[str], rounds: Sequence[int]) -> dict[str, Any]:
    """A square per client and round, coloured by its outcome."""
    places = {site: place for place, site in enumerate(sites)}
    columns = {number: place for place, number in enumerate(rounds)}
    series = []
    for outcome, colour in colours.outcomes.items():
        data = [
            {"value": [columns[cell.round], places[cell.site], 1], "name": cell.said}
            for cell in cells
            if cell.outcome == outcome
        ]
        series.append(
            {
                "name": outcome,
                "type": "scatter",
                "symbol": _SHAPES[outcome],
                "symbolSize": 12 if len(rounds) <= 40 else 6,
                "data": data,
                "itemStyle": {"color": colour},
                "large": False,
            }
        )
    frame = _frame(colours)
    return {
        **frame,
        "tooltip": {**frame["tooltip"], "trigger": "item", "formatter": "{b}"},
        "grid": {**frame["grid"], "top": 38},
        "xAxis": {
            **_x_axis(colours, "round"),
            "type": "category",
            "data": [str(number) for number in rounds],
            "splitLine": {"show": False},
        },
        "yAxis": {
            "type": "category",
            "data": list(sites),
            "inverse": True,
            "axisLabel": {"color": colours.muted, "width": 110, "overflow": "truncate"},
            "axisLine": {"show": False},
            "axisTick": {"show": False},
            "splitLine": {"show": True, "lineStyle": {"color": colours.grid}},
        },
        "series": series,
    }


_SHAPES = {"trained": "circle", "late": "triangle", "refused": "diamond", "failed": "rect"}


def _frame(colours: Palette) -> dict[str, Any]:
    return {
        "animation": False,
        "textStyle": {"fontFamily": "inherit"},
        "legend": {
            "type": "scroll",
            "top": 0,
            "left": 0,
            "textStyle": {"color": colours.text},
            "pageTextStyle": {"color": colours.text},
            "pageIconColor": colours.text,
        },
        "grid": {"left": 4, "right": 12, "top": 46, "bottom": 24, "containLabel": True},
        "tooltip": _tooltip(colours, ""),
    }


def _in_place_of(colours: Palette, said: str) -> dict[str, Any]:
    """A text in the middle of a chart without lines; empty once there are some."""
    style = {"color": colours.muted, "fontWeight": "normal", "fontSize": 14}
    return {"text": said, "left": "center", "top": "middle", "textStyle": style}


def _tooltip(colours: Palette, unit: str, *, exponent: bool = False) -> dict[str, Any]:
    digits = "toExponential(1)" if exponent else "toPrecision(4)"
    return {
        "trigger": "axis",
        "confine": True,
        "backgroundColor": colours.surface,
        "borderColor": colours.grid,
        "textStyle": {"color": colours.text},
        ":valueFormatter": f"value => value == null ? '–' : Number(value).{digits} + '{' ' + unit if unit else ''}'",
    }


def _x_axis(colours: Palette, name: str) -> dict[str, Any]:
    return {
        "type": "value",
        "name": name,
        "nameLocation": "middle",
        "nameGap": 24,
        "min": "dataMin",
        "max": "dataMax",
        "minInterval": 1,
        "nameTextStyle": {"color": colours.muted},
        "axisLabel": {"color": colours.muted, "hideOverlap": True},
        "axisLine": {"lineStyle": {"color": colours.grid}},
        "axisTick": {"show": False},
        "splitLine": {"show": False},
    }


def _axis(colours: Palette, axis: Axis, *, grid: bool = True) -> dict[str, Any]:
    return {
        "type": "log" if axis.log else "value",
        "name": axis.name,
        "scale": not axis.from_zero,
        "nameTextStyle": {"color": colours.muted, "align": "left" if grid else "right"},
        "axisLabel": {
            "color": colours.muted,
            "hideOverlap": True,
            **({":formatter": "value => value.toExponential(0)"} if axis.log else {}),
        },
        "splitLine": {"show": grid, "lineStyle": {"color": colours.grid}},
    }


def _line(colours: Palette, place: int, line: Line) -> dict[str, Any]:
    colour = colours.lines[place % len(colours.lines)]
    return {
        "name": line.name,
        "type": "line",
        "yAxisIndex": 1 if line.second else 0,
        "data": [[x, y] for x, y in line.points],
        "symbol": MARKERS[place % len(MARKERS)],
        "symbolSize": 6,
        "showSymbol": len(line.points) <= FEW and not line.thin,
        "connectNulls": True,
        "lineStyle": {
            "color": colour,
            "width": 1.2 if line.thin else 2.2,
            "type": "dashed" if line.dashed else "solid",
        },
        "itemStyle": {"color": colour},
    }
