"""Downloads as changes: links that turn the state that a site has into the next one.

    change   a difference of every tensor, packed with any codec at any density
    turn     for every matrix T and T⁻¹ (r, r):  A' = T A,  B' = B T⁻¹, after a strategy has re-factored B A (FedSVD)

Guarantees:
 1. Who follows the links holds, bit for bit, what `next_links` returned, on any machine: sums and products are made of
    single float operations in a fixed order.
 2. A site takes up the links where it stands, by the hash of what it holds: a repeated download changes nothing.
 3. The difference is taken from what sites hold, not from the state before: what a lossy codec has left out is part of
    the next difference. That is the coordinator's error memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from google.protobuf.message import DecodeError
from torch import Tensor

from fedlora.updates import Adapter, LowRank, Tensors, norm, subtract
from fedlora.wire import update_pb2 as pb
from fedlora.wire.message import Expected, Header, Schema, WireError, decode, encode, state_hash
from fedlora.wire.packing import CodecName

SAME_ROWS = 1e-5  # relative: A' = T A up to float32
WORST_TURN = 1e4  # condition of T; beyond it B T⁻¹ loses what float32 has


@dataclass(frozen=True)
class Step:
    """Links, the state of a site that has followed them, and the share ‖left out‖ / ‖change‖ that it does not have."""

    links: tuple[bytes, ...]
    held: Adapter
    left_out: float


def next_links(
    held: Adapter, target: Adapter, *, run: str, round_number: int, strategy: str, codec: CodecName, density: float
) -> Step:
    """From `held` towards `target`."""
    links, left_out = [], 0.0
    turns = turns_between(held, target)
    aimed = turned_back(held, target, turns) if turns else target
    change = subtract(aimed.tensors(), held.tensors())
    if any(bool(torch.any(tensor)) for tensor in change.values()):
        header = Header("change", run, round_number, strategy=strategy, base_hash=state_hash(held.tensors()))
        links.append(encode(change, header, codec=codec, density=density, omit_zeros=True))
        held = followed(links[-1], held, run)
        left_out = norm(subtract(aimed.tensors(), held.tensors())) / norm(change)
    if turns:
        header = Header("turn", run, round_number, strategy=strategy, base_hash=state_hash(held.tensors()))
        links.append(encode(turns, header))
        held = followed(links[-1], held, run)
    return Step(tuple(links), held, left_out)


def packed_changes(links: Sequence[bytes], result: Adapter) -> bytes:
    """The download for a site that holds a state before these links."""
    return pb.Changes(links=links, result_hash=state_hash(result.tensors())).SerializeToString(deterministic=True)


def follow(blob: bytes, held: Adapter, *, run: str) -> Adapter:
    """The state after the links in `blob`, from wherever among them `held` stands. WireError on anything else."""
    try:
        changes = pb.Changes.FromString(blob)
    except DecodeError:
        raise WireError("malformed-update") from None
    here = state_hash(held.tensors())
    for link in changes.links:
        if base_of(link).base_hash == here:
            held = followed(link, held, run)
            here = state_hash(held.tensors())
    if here != changes.result_hash:
        raise WireError("wrong-base-state")
    return held


def base_of(link: bytes) -> pb.Body:
    """A link's header, to find the place to start; `decode` validates it."""
    try:
        return pb.Body.FromString(pb.Envelope.FromString(link).body)
    except DecodeError:
        raise WireError("malformed-update") from None


def followed(link: bytes, held: Adapter, run: str) -> Adapter:
    """One link applied."""
    body = base_of(link)
    turn = body.kind == "turn"
    schema = turn_schema(held) if turn else Schema.of(held.tensors())
    expected = Expected("turn" if turn else "change", run, body.round, state_hash(held.tensors()))
    message = decode(link, schema, expected)
    return turned(held, message.tensors) if turn else held.with_tensors(message.added_to(held.tensors()))


def turn_schema(adapter: Adapter) -> Schema:
    """T and T⁻¹ of every matrix."""
    return Schema({name: (2, adapter.layers[name].rank, adapter.layers[name].rank) for name in sorted(adapter.layers)})


def turns_between(held: Adapter, target: Adapter) -> dict[str, Tensor]:
    """T and T⁻¹ of every matrix if some A has changed within its own rows and all others stayed; otherwise empty."""
    turns = {}
    for name in sorted(held.layers):
        old_rn, new_rn = held.layers[name].A_rn, target.layers[name].A_rn
        turn_rr = torch.eye(len(old_rn), dtype=torch.float64)
        if not torch.equal(old_rn, new_rn):
            turn_rr = torch.linalg.lstsq(old_rn.double().mT, new_rn.double().mT).solution.mT
            missed = torch.linalg.norm(turn_rr @ old_rn.double() - new_rn.double())
            if missed > SAME_ROWS * torch.linalg.norm(new_rn.double()) or torch.linalg.cond(turn_rr) > WORST_TURN:
                return {}
        turns[name] = torch.stack([turn_rr, torch.linalg.inv(turn_rr)]).float()
    moved = any(not torch.equal(turn[0], torch.eye(turn.shape[1])) for turn in turns.values())
    return turns if moved else {}


def turned_back(held: Adapter, target: Adapter, turns: Tensors) -> Adapter:
    """The target in the coordinates that sites have: their own A, and B transformed back."""
    layers = {
        name: LowRank(product(layer.B_mr, turns[name][0]), held.layers[name].A_rn, layer.scale, layer.R_rr)
        for name, layer in target.layers.items()
    }
    return Adapter(layers, target.dense)


def turned(held: Adapter, turns: Tensors) -> Adapter:
    layers = {
        name: LowRank(product(layer.B_mr, turns[name][1]), product(turns[name][0], layer.A_rn), layer.scale, layer.R_rr)
        for name, layer in held.layers.items()
    }
    return Adapter(layers, held.dense)


def product(left_ij: Tensor, right_jk: Tensor) -> Tensor:
    """A matrix product with the same bits on every machine: additions in a fixed order; j is a rank, so it is short."""
    left, right = left_ij.double(), right_jk.double()
    total = torch.zeros(len(left), right.shape[1], dtype=torch.float64)
    for j in range(len(right)):
        total = total + left[:, j : j + 1] * right[j : j + 1]
    return total.float()
