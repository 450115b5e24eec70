"""What an optimiser remembers from round to round under `train.optimizer_state: keep`: on the site's own disk, per run,
replaced atomically, never sent.

A round that is repeated starts from the moments that it had started from: the file holds both. Moments go on from what
the site has trained, whether its answer was used or not. Of a factor that a round did not train they stay as they were.

Moments carry a mark, whether they came of private steps: those are made of noised gradients alone, and a private round
starts from no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fedlora.files import write_atomically


class Moments:
    """One site's optimiser state in one run, by `<kind>/<flat name>` (`client.steps.optimizer`)."""

    def __init__(self, folder: Path, run: str) -> None:
        self._path = folder / "moments" / f"{run}.safetensors"

    def before(self, number: int, *, private: bool) -> dict[str, Tensor]:
        """What round `number` starts from; empty where there is nothing usable, so that it starts afresh."""
        try:
            with safe_open(self._path, framework="pt") as file:
                about = file.metadata()
                if private and about["private"] != "yes":
                    return {}
                prefix = "before/" if int(about["round"]) >= number else "after/"
                kept = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118  # not a dict
                return {name.removeprefix(prefix): file.get_tensor(name) for name in kept}
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return {}

    def keep(self, moments: Mapping[str, Tensor], *, after_round: int, private: bool) -> None:
        """Store the moments after a round beside those before it. Done before the answer is recorded."""
        started = self.before(after_round, private=private)
        tensors = {f"before/{name}": tensor for name, tensor in started.items()}
        tensors |= {f"after/{name}": tensor.clone() for name, tensor in {**started, **moments}.items()}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        about = {"round": str(after_round), "private": "yes" if private else "no"}
        write_atomically(self._path, save(tensors, metadata=about))
