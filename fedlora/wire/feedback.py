"""Error feedback: what a lossy codec left out of an update is kept at the site and added to the next one.

Private state of one site and run, on its own disk, replaced atomically. It is dropped when the base has moved or the
schema has changed, because it would no longer mean the same. When a strategy re-factors A between rounds in which only
B trains (FedSVD), the residual of B is carried over: e_B A_old = e_B (A_old A_new⁺) A_new, exact within the row space
that the two A's share.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fedlora.files import write_atomically
from fedlora.updates import Adapter, Tensors
from fedlora.wire.message import Schema


class Feedback:
    """The residual of one site in one run."""

    def __init__(self, folder: Path, run: str) -> None:
        self._path = folder / "feedback" / f"{run}.safetensors"

    def residual(self, schema: Schema, received: Adapter, *, base_version: int) -> dict[str, Tensor]:
        """What to add to the next update, in the gauge of the received adapter; empty when there is nothing usable."""
        try:
            with safe_open(self._path, framework="pt") as file:
                about = json.loads(file.metadata()["fedlora"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return {}
        if about != {"schema": schema.hash.hex(), "base_version": base_version}:
            return {}
        kept = {name.removeprefix("e/"): t for name, t in tensors.items() if name.startswith("e/")}
        frozen = {name.removeprefix("A/"): t for name, t in tensors.items() if name.startswith("A/")}
        return carried_over(kept, frozen, received)

    def keep(self, residual: Tensors, received: Adapter, *, base_version: int) -> None:
        """Store what was left out this round."""
        about = {"schema": Schema.of(residual).hash.hex(), "base_version": base_version}
        tensors = {f"e/{name}": tensor.contiguous() for name, tensor in residual.items()}
        for name, layer in received.layers.items():
            if f"{name}.B" in residual and f"{name}.A" not in residual:
                tensors[f"A/{name}"] = layer.A_rn.contiguous()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, save(tensors, metadata={"fedlora": json.dumps(about)}))


def carried_over(kept: Mapping[str, Tensor], frozen: Mapping[str, Tensor], received: Adapter) -> dict[str, Tensor]:
    """The residual with every e_B re-expressed for the A that is frozen now."""
    moved = dict(kept)
    for name, A_old in frozen.items():
        A_new = received.layers[name].A_rn
        if not torch.equal(A_old, A_new):
            turn_rr = torch.linalg.lstsq(A_new.double().mT, A_old.double().mT).solution.mT  # A_old = turn · A_new
            moved[f"{name}.B"] = (kept[f"{name}.B"].double() @ turn_rr).float()
    return moved
