"""The checkpoint, from which a killed coordinator resumes: one safetensors file, replaced atomically after every
round."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fedlora.files import write_atomically
from fedlora.lowrank import products_of, tensors_of
from fedlora.settings import SettingsError
from fedlora.updates import Adapter, Factor, LowRank, factor_of
from server.record.downlink import Downlink
from strategies.base import State

FORMAT = 4


class CheckpointError(SettingsError):
    """A checkpoint that cannot be used; the text says what to do."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint whose bytes are not those that were written."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands after `round` rounds. A value: the loop replaces it, the checkpoint stores it."""

    run: str
    round: int
    state: State
    held_versions: Mapping[int, int] = field(default_factory=dict)
    """Base version that each node holds, by node id, as it acknowledged."""
    downlink: Downlink | None = None
    """Under `wire.download: changes`: the state that sites hold, and the links that lead to it."""
    held_rounds: Mapping[int, int] = field(default_factory=dict)
    """Round of the state that each node holds, by node id, as it acknowledged."""
    used_rounds: Mapping[int, int] = field(default_factory=dict)
    """Last round whose update of each node became part of the state, by node id."""
    bytes_up: int = 0
    bytes_down: int = 0
    journal: str | None = None
    """SHA-256 of rounds.jsonl up to this round; None in checkpoints of version 0.1.0."""


def write(path: Path, progress: Progress, *, recipe: Mapping[str, Any]) -> None:
    """Store `progress`; the file is the old one or the new one, whatever happens."""
    state = progress.state
    tensors: dict[str, Tensor] = {f"adapter/{name}": t for name, t in state.adapter.tensors().items()}
    for version, residual in (("past", state.past), *enumerate(state.residuals, state.merged)):
        tensors |= {f"residual/{version}/{name}": tensor for name, tensor in tensors_of(residual).items()}
    tensors |= {f"memory/{name}": tensor for name, tensor in state.memory.items()}
    if (downlink := progress.downlink) is not None:
        tensors |= {f"held/{name}": tensor.clone() for name, tensor in downlink.adapter.tensors().items()}
        tensors |= {
            f"link/{i}": torch.frombuffer(bytearray(b), dtype=torch.uint8) for i, (_, b) in enumerate(downlink.links)
        }
    about = {
        "format": FORMAT,
        "run": progress.run,
        "round": progress.round,
        "base_version": state.base_version,
        "merged": state.merged,
        "scales": {name: layer.scale for name, layer in state.adapter.layers.items()},
        "held_versions": progress.held_versions,
        "held_rounds": progress.held_rounds,
        "used_rounds": progress.used_rounds,
        "downlink": downlink and [downlink.round, downlink.since, [number for number, _ in downlink.links]],
        "bytes": [progress.bytes_up, progress.bytes_down],
        "journal": progress.journal,
        "recipe": recipe,
    }
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    text = json.dumps(about)
    write_atomically(path, save(whole, metadata={"fedlora": text, "sha256": _digest(text, whole)}))


def read(path: Path, *, recipe: Mapping[str, Any], may_differ: Collection[str] = ()) -> Progress:
    """The progress stored at `path`. CheckpointError if one bit of it is damaged, or it belongs to another recipe.

    `may_differ`: settings whose values are no part of what a run is.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text, digest = file.metadata()["fedlora"], file.metadata()["sha256"]
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
        if _digest(text, tensors) != digest:
            raise ValueError("another digest")
        about = json.loads(text)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise DamagedCheckpointError(
            f"the checkpoint {path} is damaged ({type(error).__name__}). Restore it from a backup, or start "
            "again without --resume in another --out folder."
        ) from None
    changed = sorted(set(_differences(about["recipe"], recipe)) - set(may_differ))
    if changed:
        raise CheckpointError(
            f"the checkpoint {path} was made with another recipe; {', '.join(changed)} differ(s). Resume with the "
            "recipe in that folder's config.yaml, or start a new run in another --out folder."
        )
    up, down = about["bytes"]
    versions, held, used = (
        {int(node): number for node, number in about.get(kind, {}).items()}
        for kind in ("held_versions", "held_rounds", "used_rounds")
    )
    state = _state(tensors, about)
    downlink = _downlink(tensors, about["downlink"], state.adapter) if about["downlink"] else None
    journal = about.get("journal")
    return Progress(about["run"], about["round"], state, versions, downlink, held, used, up, down, journal)


def _downlink(tensors: Mapping[str, Tensor], about: Sequence[Any], template: Adapter) -> Downlink:
    number, since, rounds = about
    held = {name.removeprefix("held/"): tensor for name, tensor in tensors.items() if name.startswith("held/")}
    links = tuple((led_to, tensors[f"link/{i}"].numpy().tobytes()) for i, led_to in enumerate(rounds))
    return Downlink(number, template.with_tensors(held), since, links)


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """safetensors has no checksum of its own: a bit that a disk has turned would be averaged into every client."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _state(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> State:
    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

    flat = under("adapter/")
    layers = {
        name: LowRank(flat[f"{name}.B"], flat[f"{name}.A"], scale, flat.get(f"{name}.R"))
        for name, scale in about["scales"].items()
    }
    dense = {name: tensor for name, tensor in flat.items() if factor_of(name) is Factor.DENSE}
    merged = about.get("merged", 0)
    residuals = tuple(products_of(under(f"residual/{version}/")) for version in range(merged, about["base_version"]))
    past = products_of(under("residual/past/"))
    return State(Adapter(layers, dense), residuals, under("memory/"), past, merged)


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Settings that differ, apart from the number of rounds (a finished run may be continued)."""
    found = []
    for key in old.keys() | new.keys():
        path = f"{prefix}{key}"
        left, right = old.get(key), new.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            found += _differences(left, right, f"{path}.")
        elif left != right and path not in ("rounds.count", "name"):
            found.append(path)
    return found
