"""A result's quality as its own run recorded it, where no file is given: against the model before round 1, or guessing.

Only means are recorded. Of a share the standard error is that of two independent sets of as many rows, which is more
than that of the same rows would be; of a loss nothing is known, and it is taken as it stands.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedlora.config import GateSettings
from fedlora.exports.source import Source
from fedlora.gate.rule import no_worse
from fedlora.gate.verdict import Check
from fedlora.protocol.task import Evaluation
from fedlora.results.judging.figures import Figure
from fedlora.settings import SettingsError, parse
from fedlora.tasks.guessing import standard_error
from fedlora.tasks.metric import SHARE, Metric
from fedlora.tasks.registry import task_of

NAME = "recorded"
BEFORE, SUMMARY = "before.json", "summary.json"
"""A run's files."""


def recorded(source: Source, run: Path, by: GateSettings) -> Check | None:
    """None where the run recorded nothing to hold its result against."""
    last = source.about.made.evaluation if source.about.made else None
    metric = task_of(source.model).compare_by
    if last is None or not last.examples:
        return None
    own, rows = last.value(metric.name), last.examples
    first = content_of(run / BEFORE)
    if first:
        before = parse(Evaluation, first)
        apart = Figure(own - before.value(metric.name), error_of(metric, own, before.value(metric.name), rows), rows)
        than = "against the model before round 1, as the run recorded it"
        return no_worse(NAME, apart, metric, than, margin=by.margin, by=by, exact=True)
    majority = content_of(run / SUMMARY).get("majority")
    if not isinstance(majority, float) or metric.unit != SHARE:
        return None
    apart = Figure(own - majority, standard_error(own, rows), rows)
    return no_worse(NAME, apart, metric, "against guessing, as the run recorded it", margin=0.0, by=by, exact=True)


def error_of(metric: Metric, one: float, other: float, rows: int) -> float | None:
    """None where it cannot be known from the means."""
    if metric.unit != SHARE:
        return None
    return float((standard_error(one, rows) ** 2 + standard_error(other, rows) ** 2) ** 0.5)


def content_of(file: Path) -> dict[str, Any]:
    """Empty where there is none."""
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError:
        raise SettingsError(f"{file} is damaged; give --on FILE, and the result is judged on that.") from None
    return found if isinstance(found, dict) else {}
