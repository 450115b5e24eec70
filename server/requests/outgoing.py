"""What each client is sent in a round: the task, and the state, packed once for all who need the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from fedlora.config import Recipe
from fedlora.config.model import LoadDtype
from fedlora.privacy.digest import task_digest
from fedlora.protocol.task import Task
from fedlora.updates import Adapter, Factor
from fedlora.wire.changes import packed_changes
from fedlora.wire.message import state_hash
from fedlora.wire.state import decoded_adapter, encode_state
from server.record.checkpoint import Progress
from server.record.downlink import Downlink, advanced
from server.requests.planner import Ranks, shares
from strategies.base import Payload, Recipient, Strategy


@dataclass(frozen=True)
class RunConstants:
    """What the coordinator fixes at the start of a run besides the recipe."""

    fingerprint: str
    """Hash of the base model that every site must hold."""
    labels: tuple[str, ...]
    fingerprints: Mapping[LoadDtype, str] = field(default_factory=dict)
    """Of the base in the other forms in which a site may hold it."""
    coordinator: str = "local"
    ranks: Callable[[int], Ranks | None] = lambda node: None
    """A node's rank of each matrix, where devices are unequal."""
    noise_factor: float = 1.0
    """What sites are to multiply their calibrated noise by in this round, under privacy.adapt."""


@dataclass(frozen=True)
class TrainRequest:
    """One client's message before it is a Flower message, and what its answer will be relative to."""

    node: int
    task: Task
    blob: bytes
    adapter: Adapter
    """The strategy's own, to which the client's difference is added: what a lossy download left out is not lost."""
    base_hash: bytes
    """Names the state that the client starts from: this adapter as it arrives there."""

    @cached_property
    def digest(self) -> str:
        """Names the task with its state: the same delivery again has the same."""
        return task_digest(self.task, self.blob)


def outgoing(
    recipe: Recipe, brief: RunConstants, strategy: Strategy, progress: Progress, *, nodes: Sequence[int], number: int
) -> tuple[list[TrainRequest], Downlink | None]:
    """One message a node, and what sites hold when they have it, under `wire.download: changes`.

    Nodes that hold the same get the same bytes, encoded once.
    """
    trains, keeps = trained_in(number, recipe, strategy)
    recipe = without_feedback(recipe) if strategy.traits.redraws else recipe
    changes = recipe.wire.download == "changes"
    downlink = next_downlink(recipe, strategy, progress, number) if changes else None
    packed: dict[object, EncodedState] = {}
    common = common_task(recipe, brief, progress, number=number, trains=trains, keeps=keeps)
    messages = []
    for node in nodes:
        held, ranks = progress.held_versions.get(node), brief.ranks(node)
        same = (held, None if ranks is None else tuple(sorted(ranks.items())), progress.held_rounds.get(node))
        if same not in packed:
            recipient = Recipient(str(node), held, shares(recipe.adapter, ranks))
            payload = strategy.broadcast(progress.state, recipient)
            packed[same] = pack(recipe, payload, progress, downlink, node=node, number=number)
        ready = packed[same]
        own = {
            "ranks": ranks,
            "residual_since": ready.residual_since,
            "changes": ready.changes,
            "used_round": progress.used_rounds.get(node, 0),
        }
        task = common.model_copy(update=own)
        messages.append(TrainRequest(node, task, ready.blob, ready.adapter, ready.base_hash))
    return messages, downlink


def trained_in(number: int, recipe: Recipe, strategy: Strategy) -> tuple[frozenset[Factor], frozenset[Factor]]:
    """What clients train and send in this round, and what they train and keep."""
    frozen = {Factor.DENSE} if recipe.train.head == "frozen" else set()
    return strategy.trains(number) - frozen, strategy.traits.keeps - frozen


def without_feedback(recipe: Recipe) -> Recipe:
    """For strategies whose rounds have nothing in common that a residual could be added to."""
    return recipe.model_copy(update={"wire": recipe.wire.model_copy(update={"error_feedback": False})})


@dataclass(frozen=True)
class EncodedState:
    """A download, and what it is made of."""

    blob: bytes
    adapter: Adapter
    base_hash: bytes
    changes: bool
    residual_since: int = 0


def next_downlink(recipe: Recipe, strategy: Strategy, progress: Progress, number: int) -> Downlink:
    target = strategy.broadcast(progress.state, Recipient("")).adapter
    return advanced(
        progress.downlink,
        target.to(torch.float32),
        recipe.wire,
        run=progress.run,
        round_number=number,
        strategy=recipe.strategy.name,
    )


def pack(
    recipe: Recipe, payload: Payload, progress: Progress, downlink: Downlink | None, *, node: int, number: int
) -> EncodedState:
    """The whole state, or the links that this node has missed."""
    codec = recipe.wire.download_codec
    if downlink is None:
        arrives, residual = decoded_adapter(payload.adapter, codec), payload.residual
    else:
        arrives, residual, codec = downlink.adapter, {}, "fp32"
        missed = downlink.missed_by(progress.held_rounds.get(node))
        if missed is not None:
            return EncodedState(packed_changes(missed, arrives), payload.adapter, state_hash(arrives.tensors()), True)
    blob = encode_state(
        arrives, residual, run=progress.run, round_number=number, strategy=recipe.strategy.name, codec=codec
    )
    return EncodedState(blob, payload.adapter, state_hash(arrives.tensors()), False, payload.residual_since)


def common_task(
    recipe: Recipe,
    brief: RunConstants,
    progress: Progress,
    *,
    number: int,
    trains: frozenset[Factor],
    keeps: frozenset[Factor],
) -> Task:
    """What all clients are told in a round; a client's own is added to it."""
    return Task(
        run=progress.run,
        round=number,
        rounds=recipe.most_charges,
        seed=recipe.seed,
        strategy=recipe.strategy.name,
        trains=tuple(sorted(trains)),
        keeps=tuple(sorted(keeps)),
        model=recipe.model,
        fingerprint=brief.fingerprint,
        fingerprints=brief.fingerprints,
        labels=brief.labels,
        adapter=recipe.adapter,
        train=recipe.train,
        privacy=recipe.privacy,
        noise_factor=brief.noise_factor,
        wire=recipe.wire,
        base_version=progress.state.base_version,
        coordinator=brief.coordinator,
        weigh_by="tokens" if recipe.strategy.weighs_tokens else "examples",
    )
