"""Planned traffic of a run, measured on messages that the run's own code packs, including task and report.

Three rounds are played with Gaussian updates in the place of training: the first is sent no residual, the second is,
and strategies that take turns (RoLoRA) send another factor in the second than in the third. Later rounds are as the one
two before them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fedlora.adapters import initial_adapter
from fedlora.config import ComputeSettings, Recipe
from fedlora.data.classes import require_classes
from fedlora.data.row import labels_in
from fedlora.data.rows import read_source
from fedlora.models.loaded_model import loaded_model
from fedlora.protocol.task import Evaluation, Report
from fedlora.protocol.versions import recorded_json
from fedlora.settings import SettingsError
from fedlora.tasks.registry import has_classes, task_named
from fedlora.updates import Factor, Tensors, Update, add
from fedlora.wire.choice import choose, packing_of
from fedlora.wire.message import Header, encode
from server.record.checkpoint import Progress
from server.requests.outgoing import RunConstants, TrainRequest, outgoing
from simulations.data.partition import columns_of
from strategies.base import Strategy
from strategies.compatibility import case_of, require_compatible
from strategies.registry import build

PLAYED = 3
NODE, NAME = 1000, "client-0"
RUN = "0" * 32
HERE = ComputeSettings(device="cpu")
"""Nothing is trained: a plan needs no accelerator."""
SHARE, ACCURACY = 2 / 3, 0.8125
"""A measured loss has as many digits in JSON as the first; an accuracy, of few examples, fewer."""
TOKENS = 10_000
"""Learnt tokens of a client: five digits, as a hundred to a thousand answers have."""
RECEIPT = "0" * 908
"""A site's signed receipt, JSON inside JSON: 899 to 917 characters with its escaped quotes (834 to 852 without), in two
rounds of FFA and FedIT at four clients."""


@dataclass(frozen=True)
class Round:
    """Bytes of one client's message and answer, and how the update was packed."""

    up: int
    down: int
    codec: str
    density: float


def classes_of(recipe: Recipe) -> tuple[str, ...]:
    """The recipe's classes, or those of its data; SettingsError where neither says them."""
    if not has_classes(recipe.model.task):
        return ()
    if recipe.data.labels is not None:
        return recipe.data.labels
    try:
        columns = columns_of(recipe.data, recipe.model.task)
        rows = read_source(recipe.data.source, columns).rows
    except SettingsError as error:
        raise SettingsError(f"{error}\nA plan needs the classes: set data.labels, or give --classes.") from None
    labels = labels_in(rows)
    require_classes(labels, columns, recipe.data.source)
    return labels


def planned_bytes(recipe: Recipe, *, clients: int, labels: Sequence[str] | None = None) -> dict[str, Any]:
    """Bytes of one client: a later round's up and down, the first round's, and those of the whole run."""
    require_compatible(case_of(recipe))
    labels = tuple(labels or classes_of(recipe))
    home = loaded_model(HERE.placed(recipe).model, recipe.adapter, labels)
    adapter = initial_adapter(home.model, recipe.adapter, seed=0)
    played = play(recipe, Progress(RUN, 0, _strategy(recipe).init(adapter)), labels, home.base.fingerprint, clients)
    run = [played[number if number < PLAYED else PLAYED - 2 + (number - PLAYED) % 2]
           for number in range(recipe.rounds.count)]  # fmt: skip
    both = adapter.tensors([Factor.A, Factor.B, Factor.DENSE])
    return {
        "strategy": recipe.strategy.name,
        "codec": played[-1].codec,
        "density": played[-1].density,
        "bytes_up": played[-1].up,
        "bytes_down": played[-1].down,
        "bytes_down_first": played[0].down,
        "bytes_up_run": sum(one.up for one in run),
        "bytes_down_run": sum(one.down for one in run),
        "dense_fp32": sum(4 * tensor.numel() for tensor in both.values()),
    }


def play(recipe: Recipe, progress: Progress, labels: tuple[str, ...], fingerprint: str, clients: int) -> list[Round]:
    """The first rounds of a run, with noise for training."""
    strategy, brief, rounds = _strategy(recipe), RunConstants(fingerprint, labels), []
    for number in range(1, PLAYED + 1):
        messages, downlink = outgoing(recipe, brief, strategy, progress, nodes=[NODE], number=number)
        sent = messages[NODE]
        updates = [noise_like(sent.adapter.tensors(sent.task.trains), seed=10 * number + k) for k in range(clients)]
        rounds.append(_round(recipe, sent, updates[0]))
        trained = [
            Update(f"{k}", 1.0, sent.adapter.with_tensors(add(sent.adapter.tensors(sent.task.trains), u, scale=0.01)))
            for k, u in enumerate(updates)
        ]
        progress = replace(
            progress,
            round=number,
            state=strategy.step(progress.state, strategy.combine(trained)),
            held_versions={NODE: sent.task.base_version},
            held_rounds={NODE: number},
            used_rounds={NODE: number},
            downlink=downlink,
        )
    return rounds


def measured(recipe: Recipe) -> Evaluation:
    """A report as a site would send it: every metric of the task."""
    metrics = {metric.name: ACCURACY for metric in task_named(recipe.model.task).metrics}
    return Evaluation(loss=SHARE, metrics=metrics, examples=100)


def _round(recipe: Recipe, sent: TrainRequest, update: Tensors) -> Round:
    choice = choose(update, recipe.wire)
    header = Header("update", RUN, sent.task.round, NAME, recipe.strategy.name, b"0" * 16)
    blob = encode(update, header, codec=choice.codec, density=choice.quotas)
    exact = choice.codec == "fp32" and choice.density == 1
    tells = not recipe.privacy.enabled or recipe.privacy.report_metrics
    report = Report(
        client=NAME,
        outcome="trained",
        round=sent.task.round,
        examples=1000,
        received=measured(recipe) if tells else None,
        train_loss=SHARE if tells else None,
        base_version=sent.task.base_version,
        packing=packing_of(choice, update, update if exact else {name: SHARE * t for name, t in update.items()}),
        receipt=RECEIPT if recipe.privacy.enabled else None,
        tokens=TOKENS if recipe.strategy.weighs_tokens else None,
    )
    said = len(recorded_json(report, without=["seconds"]))
    return Round(len(blob) + said, len(sent.blob) + len(recorded_json(sent.task)), choice.codec, choice.density)


def _strategy(recipe: Recipe) -> Strategy:
    return build(recipe.strategy.name, recipe.strategy.options)


def noise_like(tensors: Mapping[str, Tensor], *, seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(tensor.shape, generator=draw) for name, tensor in tensors.items()}
