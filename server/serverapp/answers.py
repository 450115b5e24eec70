"""Answers of a ClientApp of somebody's own become updates, each validated by itself: a bad one costs its own update."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from logging import WARNING

import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.common.logger import log
from torch import Tensor

from fedlora.adapters.peft_names import by_peft_key, flat_name
from fedlora.own_apps.records import PACKED_KEY, Order, hash_of, named_tensors
from fedlora.protocol.task import BLOB_STYPE
from fedlora.settings import SettingsError
from fedlora.updates import Adapter, Update, norm, subtract
from fedlora.wire.message import Expected, Schema, WireError, decode

ROUNDINGS = (torch.bfloat16, torch.float16)
"""What a model may hold a frozen factor in, and send it back as."""


class BadAnswerError(Exception):
    """An answer that cannot be used; the text is for the coordinator's log."""


@dataclass(frozen=True)
class Bounds:
    """Of one answer."""

    weighted_by: str
    arrays: str
    max_examples: int
    max_weight: int | None
    max_update_norm: float


@dataclass
class Answers:
    """One round's, as they are read: grows while `updates` is iterated."""

    order: Order
    sent: Adapter
    """As clients received it, kept factors included: what an answer is relative to."""
    nodes: frozenset[int]
    bounds: Bounds
    used: dict[int, RecordDict] = field(default_factory=dict)
    """The metrics of every node whose update was handed on."""
    refused: list[str] = field(default_factory=list)
    bytes_up: int = 0

    def updates(self, replies: Iterable[Message]) -> Iterator[Update]:
        """Every valid update as it arrives. A second answer of a node is ignored."""
        for message in replies:
            node = message.metadata.src_node_id
            if node in self.used:
                continue
            try:
                if message.has_error():
                    raise BadAnswerError(f"it failed: {message.error.reason}")
                if node not in self.nodes:
                    raise BadAnswerError("it was not asked")
                self.bytes_up += bytes_in(message.content)
                metrics, weight = self._weight(message.content)
                adapter = self._adapter(message.content)
            except (BadAnswerError, SettingsError, WireError, ValueError) as error:
                self.refused.append(f"node {node}: {error}")
                log(WARNING, "the answer of node %s is not used: %s", node, error)
                continue
            self.used[node] = RecordDict({"metrics": metrics})
            yield Update(str(node), weight, adapter)

    def _weight(self, content: RecordDict) -> tuple[MetricRecord, float]:
        key, most = self.bounds.weighted_by, self.bounds.max_examples
        records = list(content.metric_records.values())
        if len(records) != 1 or key not in records[0]:
            raise BadAnswerError(f"it has no MetricRecord with {key!r}")
        count = records[0][key]
        if not isinstance(count, int | float) or not 0 < count <= most:
            raise BadAnswerError(f"{key} is {count!r}; it must be above 0 and at most {most}")
        if any(not math.isfinite(value) for value in records[0].values() if isinstance(value, float)):
            raise BadAnswerError("a metric is not finite")
        return records[0], float(min(count, self.bounds.max_weight or count))

    def _adapter(self, content: RecordDict) -> Adapter:
        if self.bounds.arrays not in content.array_records:
            raise BadAnswerError(f"it has no ArrayRecord {self.bounds.arrays!r}")
        record = content.array_records[self.bounds.arrays]
        base = self.sent.tensors(self.order.trains)
        packed = record.get(PACKED_KEY)
        trained = self._unpacked(packed, base) if packed is not None else self._plain(record, base)
        size = norm(subtract(trained, base))
        if not size <= self.bounds.max_update_norm:
            raise BadAnswerError(
                f"its update is of norm {size:.3g}; max_update_norm is {self.bounds.max_update_norm:g}"
            )
        return self.sent.with_tensors(trained)

    def _unpacked(self, array: Array, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if array.stype != BLOB_STYPE:
            raise BadAnswerError(f"its packed update is of the type {array.stype!r}")
        order = self.order
        expected = Expected("update", order.run, order.round, hash_of(self.sent, order))
        return decode(array.data, Schema.of(base), expected).added_to(base)

    def _plain(self, record: ArrayRecord, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = {flat_name(key): tensor for key, tensor in named_tensors(record).items()}
        if missing := base.keys() - found.keys():
            raise BadAnswerError(f"it lacks {min(by_peft_key({name: base[name] for name in missing}))}")
        for name, tensor in base.items():
            if found[name].shape != tensor.shape:
                raise BadAnswerError(f"{name} is {tuple(found[name].shape)}, and {tuple(tensor.shape)} was sent")
            if not bool(torch.isfinite(found[name]).all()):
                raise BadAnswerError(f"{name} is not finite")
        self._require_frozen({name: tensor for name, tensor in found.items() if name not in base})
        return {name: found[name].to(tensor.dtype) for name, tensor in base.items()}

    def _require_frozen(self, others: Mapping[str, Tensor]) -> None:
        """What was not to train is as it was sent: B that fits another A would be averaged without a word."""
        sent = self.sent.tensors()
        kept = set(self.sent.tensors(self.order.keeps))
        for name, tensor in others.items():
            if name in kept:
                continue
            if name not in sent or not same(sent[name], tensor):
                raise BadAnswerError(
                    f"{name} has trained, and {self.order.strategy} trains {', '.join(self.order.trains)} in round "
                    f"{self.order.round}: let the ClientApp load the message by fedlora.flower.receive(model, "
                    "message), which freezes the rest"
                )


def same(sent: Tensor, back: Tensor) -> bool:
    """Whether it came back as it was sent, or as a model of less precision holds it."""
    if sent.shape != back.shape:
        return False
    back = back.to(sent.dtype)
    return torch.equal(sent, back) or any(torch.equal(sent.to(kind).to(sent.dtype), back) for kind in ROUNDINGS)


def bytes_in(content: RecordDict) -> int:
    """Of the arrays, as they travel: what FlowerTune counts against its 200 GB."""
    return sum(len(array.data) for record in content.array_records.values() for array in record.values())
