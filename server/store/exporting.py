"""A run's curves in the formats of TensorBoard and MLflow, for those who keep them there."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from fedlora.differing import flat
from fedlora.settings import SettingsError
from fedlora.tasks.metric import Metric
from server.store.reading import find_run, read_detail, read_rounds
from server.store.rows import RoundRow, RunDetail, RunRow

SCALARS = (
    "loss",
    "client_loss",
    "train_loss",
    "aggregation_error",
    "epsilon_max",
    "bytes_up",
    "bytes_down",
    "seconds",
    "trained",
    "refused",
    "failed",
    "late",
)


def to_tensorboard(connection: Connection, name: str, out: Path) -> Path:
    """An event file in `out`/<run>: tensorboard --logdir OUT."""
    tensorboard = _needed("torch.utils.tensorboard", "tensorboard")
    run, detail, rounds = _read(connection, name)
    folder = out / f"{run.name}-{run.run[:8]}"
    with tensorboard.SummaryWriter(str(folder)) as writer:
        writer.add_text("recipe", "\n".join(f"    {key}: {value}" for key, value in settings_of(detail.recipe)))
        for row in rounds:
            for scalar, value in measured(row, run.judged_by):
                writer.add_scalar(scalar, value, row.round, walltime=row.finished_at)
    return folder


def to_mlflow(connection: Connection, name: str, out: Path) -> Path:
    """A run in the MLflow store in `out`: mlflow ui --backend-store-uri sqlite:///OUT/mlflow.db."""
    mlflow = _needed("mlflow", "mlflow")
    run, detail, rounds = _read(connection, name)
    out.mkdir(parents=True, exist_ok=True)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{out.resolve() / 'mlflow.db'}")
    found = client.get_experiment_by_name("fedlora")
    experiment = found.experiment_id if found is not None else client.create_experiment("fedlora")
    begun = client.create_run(experiment, start_time=int(1000 * run.started_at), run_name=run.name)
    point, param = mlflow.entities.Metric, mlflow.entities.Param
    points = [
        point(scalar, value, int(1000 * row.finished_at), row.round)
        for row in rounds
        for scalar, value in measured(row, run.judged_by)
    ]
    settings = [param(key, value[:500]) for key, value in settings_of(detail.recipe)]
    client.log_batch(begun.info.run_id, params=settings[:100])
    for start in range(0, len(points), 1000):  # the most that MLflow takes at once
        client.log_batch(begun.info.run_id, metrics=points[start : start + 1000])
    ended = None if run.ended_at is None else int(1000 * run.ended_at)
    client.set_terminated(begun.info.run_id, "FINISHED" if run.state == "finished" else "FAILED", end_time=ended)
    return out


EXPORTS: dict[str, Callable[[Connection, str, Path], Path]] = {"tensorboard": to_tensorboard, "mlflow": to_mlflow}


def measured(row: RoundRow, metric: Metric) -> Iterator[tuple[str, float]]:
    """What was measured in a round, under the names of the task's metrics."""
    scalars = {scalar: getattr(row, scalar) for scalar in SCALARS}
    for scalar, value in {**row.metrics, f"client_{metric.name}": row.client_score, **scalars}.items():
        if value is not None:
            yield scalar, float(value)


def settings_of(recipe: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """As text, by their dotted names; a section without any is left out.

    >>> list(settings_of({"train": {"lr": 0.1}, "devices": {}, "seed": 0}))
    [('train.lr', '0.1'), ('seed', '0')]
    """
    return ((name, str(value)) for name, value in flat(recipe) if value != {})


def _read(connection: Connection, name: str) -> tuple[RunRow, RunDetail, list[RoundRow]]:
    run = find_run(connection, name)
    return run, read_detail(connection, run), read_rounds(connection, run)


def _needed(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise SettingsError(f"this needs {extra}; install it with: pip install 'fedlora[{extra}]'") from None
