"""The base version that a site holds, for strategies that move the base: residuals are added once, and stay on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save

from fedlora.files import write_atomically
from fedlora.lowrank import Product, products_of, tensors_of, total_of


@dataclass(frozen=True)
class CachedBase:
    """W0 plus `total`, the sum of all residuals up to `version`, in one run."""

    run: str
    version: int
    total: Mapping[str, Product]


def hold(folder: Path, run: str, version: int, residual: Mapping[str, Product], *, since: int) -> CachedBase:
    """Bring the held base to `version` by adding `residual`, which covers the versions after `since`.

    Idempotent: a base that is already at `version` is returned as it is, so a retried message adds nothing twice.
    ValueError when the residual does not start where this site stands; the coordinator then sends all of it.
    """
    if version == 0:
        return CachedBase(run, 0, {})
    held = _read(folder / "base.safetensors", run)
    if held.version == version:
        return held
    if since not in (0, held.version):
        raise ValueError(f"the residual starts at base version {since}, but this site has {held.version}")
    parts = [residual] if since == 0 else [held.total, residual]
    folder.mkdir(parents=True, exist_ok=True)
    moved = CachedBase(run, version, total_of(parts))
    _write(folder / "base.safetensors", moved)
    return moved


def _read(path: Path, run: str) -> CachedBase:
    if not path.exists():
        return CachedBase(run, 0, {})
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["fedlora"])
        if about["run"] != run:
            return CachedBase(run, 0, {})
        stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a dict
    total = products_of(stored)
    return CachedBase(run, about["version"], total)


def _write(path: Path, held: CachedBase) -> None:
    tensors = {key: tensor.contiguous() for key, tensor in tensors_of(held.total).items()}
    about = {"run": held.run, "version": held.version}
    write_atomically(path, save(tensors, metadata={"fedlora": json.dumps(about)}))
