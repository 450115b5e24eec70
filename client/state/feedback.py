"""Error feedback: what a lossy codec left out of an update is kept at the site and added to the next one.

Private state of one site and run, on its own disk, replaced atomically. It is dropped when the base has moved or the
schema has changed, because it would no longer mean the same, and when one of the two rounds was private and the other
was not: what was never noised must not be part of an update that claims to be. When a strategy re-factors A between
rounds in which only B trains (FedSVD), the residual of B is carried over: e_B A_old = e_B (A_old A_new⁺) A_new, exact
within the row space that the two A's share.

A site that missed rounds holds a residual of an older state: `decay` says what is left of it for each round missed. A
round that is repeated (a coordinator that was killed) starts from the residual that it had started from, not from its
own: the file holds both. So does the round after one whose answer was not used (late, over a quota, screened out): that
one counts as missed, its training is lost, and what it had carried on from earlier rounds is not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fedlora.files import write_atomically
from fedlora.updates import Adapter, Tensors
from fedlora.wire.message import Schema


@dataclass(frozen=True)
class Occasion:
    """Where in a run a residual belongs."""

    round: int
    base_version: int
    private: bool


class Feedback:
    """The residual of one site in one run."""

    def __init__(self, folder: Path, run: str) -> None:
        self._path = folder / "feedback" / f"{run}.safetensors"

    def residual(
        self, schema: Schema, received: Adapter, now: Occasion, *, used_round: int, decay: float = 1.0
    ) -> dict[str, Tensor]:
        """What to add to the next update, in the gauge of the received adapter; empty when there is nothing usable.

        `used_round`: the last round whose answer the coordinator has used, as it says.
        """
        try:
            with safe_open(self._path, framework="pt") as file:
                about = json.loads(file.metadata()["fedlora"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
            then = Occasion(**about["occasion"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return {}
        if about["schema"] != schema.hash.hex() or then.round > now.round:
            return {}
        if (then.base_version, then.private) != (now.base_version, now.private):
            return {}
        if then.round == now.round:
            return under("before/", tensors)
        sent = used_round >= then.round
        left = decay ** (now.round - then.round - int(sent))
        moved = carried_over(under("e/" if sent else "before/", tensors), under("A/", tensors), received)
        return {name: left * tensor for name, tensor in moved.items()} if left else {}

    def keep(self, residual: Tensors, received: Adapter, now: Occasion, *, before: Tensors) -> None:
        """Store what was left out this round, and `before`, what the round had started from."""
        about = {"schema": Schema.of(residual).hash.hex(), "occasion": asdict(now)}
        tensors = {f"e/{name}": tensor.contiguous() for name, tensor in residual.items()}
        tensors |= {f"before/{name}": tensor.contiguous() for name, tensor in before.items()}
        for name, layer in received.layers.items():
            if f"{name}.B" in residual and f"{name}.A" not in residual:
                tensors[f"A/{name}"] = layer.A_rn.contiguous()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, save(tensors, metadata={"fedlora": json.dumps(about)}))


def under(prefix: str, tensors: Tensors) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def carried_over(kept: Mapping[str, Tensor], frozen: Mapping[str, Tensor], received: Adapter) -> dict[str, Tensor]:
    """The residual with every e_B re-expressed for the A that is frozen now."""
    moved = dict(kept)
    for name, A_old in frozen.items():
        A_new = received.layers[name].A_rn
        if f"{name}.B" in kept and not torch.equal(A_old, A_new):
            turn_rr = torch.linalg.lstsq(A_new.double().mT, A_old.double().mT).solution.mT  # A_old = turn · A_new
            moved[f"{name}.B"] = (kept[f"{name}.B"].double() @ turn_rr).float()
    return moved
