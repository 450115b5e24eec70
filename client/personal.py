"""Factors that a site trains and keeps (FedSA-LoRA): on its own disk, per run, replaced atomically, never sent."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save

from fedlora.files import write_atomically
from fedlora.updates import Adapter, Tensors


class Personal:
    """One site's own factors in one run."""

    def __init__(self, folder: Path, run: str) -> None:
        self._path = folder / "personal" / f"{run}.safetensors"

    def merged(self, received: Adapter) -> Adapter:
        """What was received with this site's own factors in it; as it is before the site has trained any."""
        return received.with_tensors(load_file(self._path)) if self._path.exists() else received

    def keep(self, factors: Tensors) -> None:
        """Store the factors after a round. Done before the answer is recorded: a crash in between may train them once
        more, never lose them."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, save({name: tensor.contiguous() for name, tensor in factors.items()}))
