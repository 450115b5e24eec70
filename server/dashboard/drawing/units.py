"""Numbers as text: always with a unit and few digits, and a dash where the value is unknown."""

from __future__ import annotations

import math

from fedlora.privacy.shown import at_most
from fedlora.tasks.metric import SHARE, Metric

NOTHING = "–"
LARGE = 1000
"""Above this, an ε is a budget in name only, and its decimals mean nothing."""


def size(count: float | None) -> str:
    """Bytes, in decimal units, as the wire's own reports have them.

    >>> size(940), size(1_812_345), size(None)
    ('940 B', '1.81 MB', '–')
    """
    if count is None:
        return NOTHING
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def duration(seconds: float | None) -> str:
    """The two largest units.

    >>> duration(0.25), duration(25.9), duration(250), duration(7_500), duration(90_000 * 3)
    ('0.25 s', '25.9 s', '4 min 10 s', '2 h 5 min', '3 d 3 h')
    """
    if seconds is None:
        return NOTHING
    if seconds < 100:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    for large, small, size_of_large, size_of_small in (
        ("d", "h", 86400, 3600),
        ("h", "min", 3600, 60),
        ("min", "s", 60, 1),
    ):
        if whole >= size_of_large:
            rest = whole % size_of_large // size_of_small
            return f"{whole // size_of_large} {large}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"


def share(value: float | None) -> str:
    """Of one, in percent.

    >>> share(0.8273), share(1.0)
    ('82.7 %', '100.0 %')
    """
    return NOTHING if value is None else f"{100 * value:.1f} %"


def figure(value: float | None, metric: Metric) -> str:
    """
    >>> figure(0.8273, Metric("exact_match", unit=SHARE)), figure(2.31, Metric("loss", unit="nats"))
    ('82.7 %', '2.31 nats')
    """
    if value is None or metric.unit == SHARE:
        return share(value)
    return f"{number(value)} {metric.unit}".rstrip()


def number(value: float | None, digits: int = 3) -> str:
    """
    >>> number(0.47491), number(math.inf), number(None)
    ('0.475', '∞', '–')
    """
    if value is None:
        return NOTHING
    return "∞" if math.isinf(value) else f"{value:.{digits}g}"


def epsilon(value: float | None) -> str:
    """ε has no unit; never rounded down.

    >>> epsilon(2.3141), epsilon(0.0), epsilon(math.inf), epsilon(1e6)
    ('2.315', '0.000', '∞', '1,000,000')
    """
    if value is None:
        return NOTHING
    return f"{math.ceil(value):,}" if LARGE <= value < math.inf else at_most(value)


def epsilon_left(value: float) -> str:
    """Never rounded up: what is shown as left can be spent.

    >>> epsilon_left(0.6866), epsilon_left(999_994.14)
    ('0.686', '999,994')
    """
    if math.isinf(value):
        return "∞"
    return f"{math.floor(value):,}" if value >= LARGE else f"{math.floor(value * 1000) / 1000:.3f}"


def error(value: float | None) -> str:
    """An aggregation error, relative.

    >>> error(3.5e-08)
    '3.5e-08'
    """
    return NOTHING if value is None else f"{value:.1e}"


def saving(sent: int, dense: int | None) -> str:
    """How many times less than the dense baseline.

    >>> saving(1_000_000, 16_000_000), saving(0, None)
    ('16.0 × less', '–')
    """
    if not dense or not sent:
        return NOTHING
    times = dense / sent
    return f"{times:.1f} × less" if times >= 1 else f"{1 / times:.1f} × more"


def counted(count: int, noun: str) -> str:
    """
    >>> counted(1, "round"), counted(3, "round")
    ('1 round', '3 rounds')
    """
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
