"""Factors that a site trains and keeps (FedSA-LoRA): on its own disk, per run, replaced atomically, never sent.

A round that is repeated (a coordinator or a site that was killed) starts from the factors that it had started from, not
from its own: the file holds both, so that no crash trains them twice for one answer.

Kept factors carry a mark, whether they were trained under privacy. A private round starts from none that were not: what
was never noised must not be part of what an update was computed with that claims to be. Such a round starts as a new
site does.
"""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save

from fedlora.files import write_atomically
from fedlora.updates import Adapter, Tensors


class Personal:
    """One site's own factors in one run."""

    def __init__(self, folder: Path, run: str) -> None:
        self._path = folder / "personal" / f"{run}.safetensors"

    def merged(self, received: Adapter, *, private: bool, for_round: int | None = None) -> Adapter:
        """What was received with this site's own factors in it, as they were before `for_round`; None: as they are.

        As received before the site has trained any, and with `private` where it has trained them without privacy, or
        nothing says how. Of rounds before the last one only the last one's start is left.
        """
        if not self._path.exists():
            return received
        with safe_open(self._path, framework="pt") as file:
            about = file.metadata()
            if private and about.get("private") != "yes":
                return received
            repeated = for_round is not None and int(about["round"]) >= for_round
            prefix = "before/" if repeated else "after/"
            kept = {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118  # not a dict
        return received.with_tensors({name.removeprefix(prefix): tensor for name, tensor in kept.items()})

    def keep(self, factors: Tensors, *, received: Adapter, after_round: int, private: bool) -> None:
        """Store the factors after a round beside those before it. Done before the answer is recorded: a crash in
        between trains them once more from where they were."""
        started = self.merged(received, private=private, for_round=after_round).tensors()
        tensors = {f"after/{name}": tensor.contiguous() for name, tensor in factors.items()}
        tensors |= {f"before/{name}": started[name].contiguous() for name in factors}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        about = {"round": str(after_round), "private": "yes" if private else "no"}
        write_atomically(self._path, save(tensors, metadata=about))
