"""What a federated trainer answers: the trained arrays, or their differences packed as the order says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from client.state.feedback import Feedback, Occasion
from fedlora.adapters.peft_names import by_peft_key
from fedlora.config.wire import WireSettings
from fedlora.own_apps.receive import Received
from fedlora.own_apps.records import PACKED_KEY, Order, bytes_of, hash_of
from fedlora.protocol.task import BLOB_STYPE
from fedlora.updates import Adapter, Tensors, add, subtract
from fedlora.wire.choice import choose
from fedlora.wire.message import Expected, Header, Schema, decode, encode


@dataclass(frozen=True)
class Plain:
    """One array, as Flower's Array is made of it."""

    dtype: str
    shape: tuple[int, ...]
    stype: str
    data: bytes


def answer_of(received: Received, order: Order, trained: Adapter, *, name: str, folder: Path) -> dict[str, Plain]:
    """The arrays of the answer, by name. What a lossy codec drops is kept in the folder, and added next time."""
    own = trained.tensors(order.trains)
    if order.wire is None:
        return {
            key: Plain("float32", tuple(tensor.shape), "numpy.ndarray", bytes_of(tensor))
            for key, tensor in by_peft_key(own).items()
        }
    delta = subtract(own, received.adapter.to(torch.float32).tensors(order.trains))
    blob = packed(delta, received.adapter, order, order.wire, name=name, folder=folder)
    return {PACKED_KEY: Plain("uint8", (len(blob),), BLOB_STYPE, blob)}


def packed(delta: Tensors, received: Adapter, order: Order, wire: WireSettings, *, name: str, folder: Path) -> bytes:
    """The differences as `fedlora.wire` packs them."""
    header = Header("update", order.run, order.round, name, order.strategy, hash_of(received, order))
    if not (wire.lossy and wire.error_feedback):
        return encoded(delta, header, wire)
    feedback, now = Feedback(folder, order.run), Occasion(order.round, order.base_version, private=False)
    before = feedback.residual(Schema.of(delta), received, now, used_round=order.used_round, decay=wire.feedback_decay)
    delta = add(delta, before) if before else delta
    blob = encoded(delta, header, wire)
    expected = Expected("update", order.run, order.round, header.base_hash)
    sent = decode(blob, Schema.of(delta), expected).tensors
    feedback.keep(subtract(delta, sent), received, now, before=before)
    return blob


def encoded(delta: Tensors, header: Header, wire: WireSettings) -> bytes:
    choice = choose(delta, wire)
    return encode(delta, header, codec=choice.codec, density=choice.quotas)
