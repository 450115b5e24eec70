"""A run's folder: rounds.jsonl grows by a line a round, checkpoint.safetensors is replaced; --resume continues both."""

from __future__ import annotations

import json
import os
from pathlib import Path

from fedlora.config import Recipe
from fedlora.files import write_atomically
from fedlora.privacy.receipt import Receipt
from fedlora.settings import SettingsError
from server import checkpoint
from server.checkpoint import Progress
from server.records import RoundRecord


class Journal:
    """Writes a run's records. The line of a round is written before its checkpoint, so that none is ever missing."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder = folder
        self._recipe = recipe.model_dump(mode="json")
        self._rounds = folder / "rounds.jsonl"
        self._checkpoint = folder / "checkpoint.safetensors"

    @property
    def has_checkpoint(self) -> bool:
        return self._checkpoint.exists()

    def begin(self) -> None:
        """Make the folder, refuse one that cannot be written or that already holds a run."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / ".writable", b"")
            (self.folder / ".writable").unlink()
        except OSError as error:
            raise SettingsError(
                f"cannot write to the output folder {self.folder}: {error.strerror}. Choose another with --out."
            ) from None
        if self.has_checkpoint:
            raise SettingsError(
                f"{self.folder} already holds a run. Go on with it by --resume, or choose another folder with --out."
            )
        self._rounds.unlink(missing_ok=True)

    def resume(self) -> Progress:
        """The progress of the last complete round; lines of rounds after it are dropped. CheckpointError if damaged."""
        if not self.has_checkpoint:
            raise SettingsError(f"{self.folder} holds no checkpoint to resume from; start the run without --resume.")
        progress = checkpoint.read(self._checkpoint, recipe=self._recipe)
        lines = self._rounds.read_text(encoding="utf-8").splitlines(keepends=True)[: progress.round]
        write_atomically(self._rounds, "".join(lines).encode())
        return progress

    def receipts(self) -> dict[str, Receipt]:
        """The newest receipt of every client so far, by name; none without privacy."""
        if self._recipe["privacy"]["epsilon"] is None and self._recipe["privacy"]["noise_multiplier"] is None:
            return {}
        lines = self._rounds.read_text(encoding="utf-8").splitlines() if self._rounds.exists() else []
        clients = (client for line in lines for client in json.loads(line)["clients"])
        return {client["client"]: Receipt.model_validate(client["receipt"]) for client in clients if client["receipt"]}

    def keep(self, record: RoundRecord | None, progress: Progress) -> None:
        """Store a finished round (None: the start of the run)."""
        if record is not None:
            with self._rounds.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record.as_json()) + "\n")
                file.flush()
                os.fsync(file.fileno())
        checkpoint.write(self._checkpoint, progress, recipe=self._recipe)
