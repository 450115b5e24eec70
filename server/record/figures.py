"""A round's figures: loss and metrics from its records, and its aggregation error."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

from flwr.app import MetricRecord

from fedlora.adapters.exactness import aggregation_error
from fedlora.protocol.task import Evaluation
from server.record.records import ClientRecord, RoundRecord
from strategies.base import Combined, State
from strategies.versions import newest


def mean_received(records: Iterable[ClientRecord]) -> Evaluation | None:
    """Where every client has a model of its own: the unweighted mean of what they measured on their own examples."""
    measured = [record.received for record in records if record.outcome == "trained" and record.received is not None]
    if not measured:
        return None
    return Evaluation(
        loss=fmean(quality.loss for quality in measured),
        metrics={name: fmean(quality.metrics[name] for quality in measured) for name in measured[0].metrics},
        examples=sum(quality.examples for quality in measured),
    )


def served_error(combined: Combined, old: State, new: State) -> float:
    """The round's aggregation error: what an exact mean of the clients' ΔW is, against what is served next."""
    return aggregation_error(combined.ideal, new.adapter, newest(new, old.base_version))


def metrics(record: RoundRecord) -> MetricRecord:
    """The round's numbers as Flower knows them."""
    values: dict[str, int | float | list[int] | list[float]] = {
        "bytes-up": record.bytes_up,
        "bytes-down": record.bytes_down,
    }
    if record.aggregation_error is not None:
        values["aggregation-error"] = record.aggregation_error
    if record.lr is not None:
        values["lr"] = record.lr
    if record.evaluation is not None:
        values |= {**record.evaluation.metrics, "loss": record.evaluation.loss}
    return MetricRecord(values)
