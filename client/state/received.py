"""What a task's blob holds, decoded once for all who are sent the same bytes: the simulated clients of one process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from fedlora.lowrank import Product
from fedlora.protocol.task import Task
from fedlora.updates import Adapter
from fedlora.wire.message import state_hash
from fedlora.wire.state import decode_state

KEPT = 4
"""Different blobs that are remembered: those of one round differ by rank and by the base that a client holds."""


@dataclass(frozen=True)
class Received:
    """A decoded state. A value: whoever trains from it copies it."""

    adapter: Adapter
    residual: Mapping[str, Product]
    name: bytes
    """`state_hash` of the adapter: an answer says what it started from."""


class Recent:
    """The last few, found by the whole blob and everything else that decoding depends on."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[object, ...], tuple[Adapter, bytes, Received]] = OrderedDict()

    def state(self, task: Task, blob: bytes, template: Adapter) -> Received:
        """The state in `blob`; WireError as `decode_state` has it, every time."""
        own = (task.run, task.round, len(blob), blob[-64:], id(template))
        found = self._kept.get(own)
        if found is not None and found[0] is template and found[1] == blob:
            return found[2]
        adapter, residual = decode_state(blob, template, run=task.run, round_number=task.round)
        fresh = Received(adapter, residual, state_hash(adapter.tensors()))
        self._kept[own] = (template, blob, fresh)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return fresh


RECENT = Recent()
