"""The state that a site holds between rounds, where the coordinator sends changes only: on its own disk, per run."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from fedlora.files import write_atomically
from fedlora.protocol.task import Task
from fedlora.updates import Adapter
from fedlora.wire.changes import follow
from fedlora.wire.message import WireError
from fedlora.wire.state import decode_state


class StateCache:
    """One site's copy of one run's state."""

    def __init__(self, folder: Path, run: str) -> None:
        self._path = folder / "state" / f"{run}.safetensors"

    def advanced(self, task: Task, blob: bytes, template: Adapter) -> Adapter:
        """The task's state, kept before anything is made of it. A repeated task finds it there already.

        WireError `wrong-base-state` where the changes do not lead on from what is held (or what is held is damaged):
        the coordinator then sends the whole state the next time.
        """
        if task.changes:
            adapter = follow(blob, self._read(template), run=task.run)
        else:
            adapter, _ = decode_state(blob, template, run=task.run, round_number=task.round)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, save({name: tensor.contiguous() for name, tensor in adapter.tensors().items()}))
        return adapter

    def _read(self, template: Adapter) -> Adapter:
        try:
            return template.with_tensors(load_file(self._path))
        except (OSError, SafetensorError, KeyError, ValueError):
            raise WireError("wrong-base-state") from None
