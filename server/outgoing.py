"""What each client is sent in a round: the task, and the state, packed once for all who need the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedlora.config import Recipe
from fedlora.task import Task
from fedlora.updates import Adapter, Factor
from fedlora.wire.message import state_hash
from fedlora.wire.state import decoded_adapter, encode_state
from server.checkpoint import Progress
from server.planner import Ranks, shares
from strategies.base import Recipient, Strategy


@dataclass(frozen=True)
class Brief:
    """What the coordinator fixes at the start of a run besides the recipe."""

    fingerprint: str
    """Hash of the base model that every site must hold."""
    labels: tuple[str, ...]
    coordinator: str = "local"
    ranks: Callable[[int], Ranks | None] = lambda node: None
    """A node's rank of each matrix, where devices are unequal."""


@dataclass(frozen=True)
class Outgoing:
    """One client's message before it is a Flower message, and what its answer will be relative to."""

    node: int
    task: Task
    blob: bytes
    adapter: Adapter
    base_hash: bytes


def outgoing(
    recipe: Recipe, brief: Brief, strategy: Strategy, progress: Progress, *, nodes: Sequence[int], number: int
) -> list[Outgoing]:
    """One message a node. Nodes that hold the same base version at the same ranks get the same bytes, encoded once."""
    frozen = {Factor.HEAD} if recipe.train.head == "frozen" else set()
    trains, keeps = strategy.trains(number) - frozen, strategy.traits.keeps - frozen
    packed: dict[object, tuple[bytes, Adapter, bytes]] = {}
    messages = []
    for node in nodes:
        held, ranks = progress.held_versions.get(node), brief.ranks(node)
        same = (held, None if ranks is None else tuple(sorted(ranks.items())))
        if same not in packed:
            payload = strategy.broadcast(progress.state, Recipient(str(node), held, shares(recipe.adapter, ranks)))
            blob = encode_state(
                payload.adapter,
                payload.residual,
                run=progress.run,
                round_number=number,
                strategy=recipe.strategy.name,
                codec=recipe.wire.download_codec,
            )
            adapter = decoded_adapter(payload.adapter, recipe.wire.download_codec)
            packed[same] = (blob, adapter, state_hash(adapter.tensors()))
        blob, adapter, base_hash = packed[same]
        task = task_for(
            recipe,
            brief,
            progress,
            number=number,
            trains=trains,
            held=held or 0,
            ranks=ranks,
            keeps=tuple(sorted(keeps)),
        )
        messages.append(Outgoing(node, task, blob, adapter, base_hash))
    return messages


def task_for(
    recipe: Recipe,
    brief: Brief,
    progress: Progress,
    *,
    number: int,
    trains: frozenset[Factor],
    held: int,
    ranks: Ranks | None,
    keeps: tuple[Factor, ...],
) -> Task:
    """One client's instructions for a round."""
    return Task(
        run=progress.run,
        round=number,
        rounds=recipe.most_charges,
        seed=recipe.seed,
        strategy=recipe.strategy.name,
        trains=tuple(sorted(trains)),
        keeps=keeps,
        model=recipe.model,
        fingerprint=brief.fingerprint,
        labels=brief.labels,
        adapter=recipe.adapter,
        ranks=ranks,
        train=recipe.train,
        privacy=recipe.privacy,
        wire=recipe.wire,
        base_version=progress.state.base_version,
        residual_since=held,
        coordinator=brief.coordinator,
    )
