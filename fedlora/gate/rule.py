"""When a figure is on the good side of its bound: in doubt it is not.

    passed    better - k · error >= -margin          better: how much better than what it is held against

k standard errors (`gate.errors`) below what was measured the figure may still not be worse than allowed: with few rows
an adapter is held because too little is known of it. No number is never passed.
"""

from __future__ import annotations

import math

from fedlora.config import GateSettings
from fedlora.gate.verdict import Check
from fedlora.results.judging.figures import Figure
from fedlora.tasks.metric import SHARE, Metric


def no_worse(
    name: str, apart: Figure, metric: Metric, than: str, *, margin: float, by: GateSettings, exact: bool = False
) -> Check:
    """`apart`: ours less theirs, on the same rows. With `exact`, a figure without an error is taken as it is; otherwise
    one row alone says nothing."""
    better = apart.value if metric.larger_is_better else -apart.value
    error = apart.error if apart.error is not None else 0.0 if exact else math.inf
    passed = better - by.errors * error >= -margin
    found = f"{metric.title} is {shown(apart.value, metric)} {than}{with_error(apart, by)}"
    said = f"{found}; allowed is {allowed(metric, margin)}."
    if not passed and better >= -margin:
        said += " It may be worse than that by chance alone: more rows would tell."
    return Check(
        name=name,
        passed=passed,
        said=said,
        figures={"difference": finite(apart.value), "stderr": apart.error and finite(apart.error), "rows": apart.rows},
        thresholds={"margin": margin, "errors": by.errors},
    )


def shown(value: float, metric: Metric) -> str:
    return f"{value:+.3f}{'' if metric.unit == SHARE else f' {metric.unit}'.rstrip()}"


def with_error(apart: Figure, by: GateSettings) -> str:
    return "" if apart.error is None else f" (± {apart.error:.2g}, counted {by.errors:g} times)"


def allowed(metric: Metric, margin: float) -> str:
    return f"{'-' if metric.larger_is_better else '+'}{margin:g}" if margin else "no worse at all"


def finite(value: float) -> float | None:
    """JSON has no other."""
    return value if math.isfinite(value) else None
