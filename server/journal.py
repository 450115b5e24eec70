"""A run's folder: rounds.jsonl grows by a line a round, checkpoint.safetensors is replaced; --resume continues both."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from pathlib import Path

from fedlora.config import Recipe
from fedlora.files import write_atomically
from fedlora.protocol import recorded
from fedlora.settings import SettingsError
from server import checkpoint
from server.checkpoint import DamagedCheckpointError, Progress
from server.newest_receipts import NewestReceipts
from server.receipts import Ledgers, earlier, newest
from server.records import RoundRecord

log = logging.getLogger("fedlora.journal")


class Journal:
    """Writes a run's records. The line of a round is written before its checkpoint, so that none is ever missing."""

    def __init__(self, folder: Path, recipe: Recipe, *, runs: Path | None = None) -> None:
        """`runs`: the folder of all runs with these sites; their receipts up to the start of this one hold for it."""
        self.folder = folder
        self._runs = runs
        self._private = recipe.privacy.enabled
        self._earlier = folder / "earlier_receipts.json"
        self._recipe = recorded(recipe)
        self._rounds = folder / "rounds.jsonl"
        self._received = NewestReceipts(self._rounds)
        self._checkpoint = folder / "checkpoint.safetensors"
        self._previous = folder / "checkpoint.previous.safetensors"

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
        self._previous.unlink(missing_ok=True)
        if self._private and self._runs is not None:
            write_atomically(self._earlier, json.dumps(earlier(self._runs, than=self.folder)).encode())

    def resume(self) -> Progress:
        """The progress of the last complete round; lines of rounds after it are dropped.

        A damaged checkpoint is set aside, and the one of the round before goes on: sites that had trained the lost
        round give the answer that they had given, and are charged nothing. CheckpointError if both are damaged.
        """
        if not self.has_checkpoint:
            raise SettingsError(f"{self.folder} holds no checkpoint to resume from; start the run without --resume.")
        try:
            progress = checkpoint.read(self._checkpoint, recipe=self._recipe)
        except DamagedCheckpointError as error:
            progress = self._fall_back(error)
        lines = self._lines()[: progress.round]
        write_atomically(self._rounds, "".join(f"{line}\n" for line in lines).encode())
        return progress

    def receipts(self) -> Ledgers:
        """The newest receipt of every ledger so far, runs before this one included; none without privacy."""
        if not self._private:
            return {}
        before = json.loads(self._earlier.read_bytes()) if self._earlier.exists() else []
        return newest([*before, *self._received.records()])

    def bytes_up(self) -> dict[int, int]:
        """What every node has sent in the recorded rounds."""
        lines = self._rounds.read_text(encoding="utf-8").splitlines() if self._rounds.exists() else []
        total: Counter[int] = Counter()
        for line in lines:
            for client in json.loads(line)["clients"]:
                total[client["node"]] += client["bytes_up"]
        return dict(total)

    def accuracies(self) -> list[float]:
        """Of the rounds so far that were evaluated."""
        found = [json.loads(line)["evaluation"] for line in self._lines()]
        return [evaluation["accuracy"] for evaluation in found if evaluation is not None]

    def keep(self, record: RoundRecord | None, progress: Progress) -> None:
        """Store a finished round (None: the start of the run)."""
        if record is not None:
            with self._rounds.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record.as_json()) + "\n")
                file.flush()
                os.fsync(file.fileno())
        if self.has_checkpoint:
            self._keep_previous()
        checkpoint.write(self._checkpoint, progress, recipe=self._recipe)

    def _lines(self) -> list[str]:
        """One a round; none before the first round is complete."""
        return self._rounds.read_text(encoding="utf-8").splitlines() if self._rounds.exists() else []

    def _keep_previous(self) -> None:
        """The checkpoint of the round before stays, under its own name; at no time is there none."""
        link = self._previous.with_suffix(".link")
        link.unlink(missing_ok=True)
        try:
            os.link(self._checkpoint, link)
            link.replace(self._previous)
        except OSError:  # a file system without hard links
            write_atomically(self._previous, self._checkpoint.read_bytes())

    def _fall_back(self, damage: DamagedCheckpointError) -> Progress:
        if not self._previous.exists():
            raise damage
        try:
            progress = checkpoint.read(self._previous, recipe=self._recipe)
        except DamagedCheckpointError:
            raise damage from None
        aside = self._checkpoint.with_name("checkpoint.damaged.safetensors")
        write_atomically(aside, self._checkpoint.read_bytes())
        write_atomically(self._checkpoint, self._previous.read_bytes())
        log.warning(
            "the checkpoint is damaged; the run goes on from the round before",
            extra={"kept": str(aside), "round": progress.round},
        )
        return progress
