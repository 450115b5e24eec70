"""A task's figures in the store: columns `score`, `loss` and `metrics`, written and read here.

`metrics` is NULL where the score and the loss are all of it, as in every row of before there were tasks: written out,
they would make a store a third larger.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fedlora.protocol.task import Evaluation
from fedlora.tasks.metric import LOSS, Metric
from server.store.former import FORMER
from server.store.values import finite


def metric_of(run: Any) -> Metric:
    """The metric by which a row of `runs` is compared."""
    return Metric(run.metric, run.larger_is_better, run.unit)


def columns(quality: Evaluation | None, metric: Metric) -> dict[str, Any]:
    """What is written of one evaluation."""
    if quality is None:
        return {"score": None, "loss": None, "metrics": None}
    known = {name: value for name, value in quality.metrics.items() if finite(value) is not None}
    return {
        "score": finite(quality.value(metric.name)),
        "loss": finite(quality.loss),
        "metrics": None if known.keys() <= {metric.name} else json.dumps(known),
    }


def metrics_in(row: Mapping[Any, Any], metric: str) -> Mapping[str, float]:
    """What was measured besides the loss."""
    if row["metrics"] is not None:
        return dict(json.loads(row["metrics"]))
    return {} if row["score"] is None or metric == LOSS.name else {metric: row["score"]}


def former(metric: str, **values: float | None) -> dict[str, Any]:
    """Fields under the name of before, where it is still right."""
    return values if metric == FORMER else {}
