"""Which works train together: those whose settings and shapes are one another's, and for which a group is known to give
what each alone would."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Final

from client.work import Work

MOST_CLIENTS: Final = 32
"""In a group: each has its adapter, gradient and moments in memory at once."""

MOST_ROWS: Final = 32
"""In a pass, where the machine says nothing (`microbatch`): on a CPU it costs by then little more than its rows do."""

Numbered = tuple[int, Work]


def refused(work: Work) -> str | None:
    """Why this work is trained alone; None where it need not be."""
    task, train, private = work.placed, work.placed.train, work.grant.mechanism is not None
    if train.has_own_optimizer:
        return f"of train.optimizer={train.optimizer} it is not known that it treats every number by itself"
    if train.optimizer_state == "keep":
        return "train.optimizer_state=keep: clients that missed rounds go on from unlike steps"
    if train.packing and not private:
        return "train.packing puts several examples of a client into a row"
    if private and task.privacy.engine != "fedlora":
        return f"privacy.engine={task.privacy.engine} has the gradients of one client at a time"
    return None


def alike(work: Work) -> Hashable:
    """What all works of a group have in common."""
    task, own, mechanism = work.placed, work.start.own, work.grant.mechanism
    shapes = tuple((name, tuple(tensor.shape)) for name, tensor in own.tensors().items())
    scales = tuple(layer.scale for layer in own.layers.values())
    counted = task.train.steps is not None or task.train.schedule_over == "rounds"
    steps = None if counted else len(work.parts.train)
    private = None if mechanism is None else (mechanism.clip, mechanism.steps)
    return (
        id(work.home), task.run, task.round, work.start.base.version, task.model, task.train.model_dump_json(),
        task.trains, task.keeps, task.seed, shapes, scales, steps, private,
    )  # fmt: skip


def grouped(works: Sequence[Numbered]) -> Iterator[Sequence[Numbered]]:
    """Works that train together, in the order in which they came; of one where nobody is like it."""
    by_kind: dict[Hashable, list[Numbered]] = {}
    for numbered in works:
        by_kind.setdefault(alike(numbered[1]), []).append(numbered)
    for kind in by_kind.values():
        yield from in_parts(kind)


def in_parts(kind: Sequence[Numbered]) -> Iterator[Sequence[Numbered]]:
    """As alike in number as can be."""
    count = -(-len(kind) // MOST_CLIENTS)
    for place in range(count):
        yield kind[place * len(kind) // count : (place + 1) * len(kind) // count]
