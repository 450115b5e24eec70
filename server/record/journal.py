"""A run's folder: rounds.jsonl grows by a line a round, checkpoint.safetensors is replaced; --resume continues both.

Every checkpoint names the digest of the lines up to its round: the receipts in them are held against the sites, so a
journal that has lost or changed a line is never taken for whole.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from fedlora.config import Recipe
from fedlora.files import write_atomically
from fedlora.privacy.unconfirmed import SiteSpent
from fedlora.protocol.versions import recorded
from fedlora.settings import SettingsError
from server.record import checkpoint
from server.record.checkpoint import DamagedCheckpointError, Progress
from server.record.lines import line_of
from server.record.new_ledgers import read_accepted
from server.record.newest_receipts import NewestReceipts
from server.record.receipts import Ledgers, earlier, newest
from server.record.records import RoundRecord
from server.record.sent import FILE, SentTasks
from server.run_identity import MAY_MOVE, MadeOf, bind, bound, require_same

log = logging.getLogger("fedlora.journal")

NOISED = "noised_rounds"
"""File with one byte for every round whose sum got client-level noise, including rounds repeated after a crash."""


class Journal:
    """Writes a run's records. The line of a round is written before its checkpoint, so that none is ever missing."""

    def __init__(self, folder: Path, recipe: Recipe, *, runs: Path | None = None) -> None:
        """`runs`: the folder of all runs with these sites; their receipts up to the start of this one hold for it."""
        self.folder = folder
        self._runs = runs
        self._private = recipe.privacy.enabled
        self._earlier = folder / "earlier_receipts.json"
        self._recipe = recorded(recipe)
        self._settings = recipe
        self._rounds = folder / "rounds.jsonl"
        self._received = NewestReceipts(self._rounds)
        self._checkpoint = folder / "checkpoint.safetensors"
        self._previous = folder / "checkpoint.previous.safetensors"
        self._digest = hashlib.sha256()
        self._may_differ: Collection[str] = ()
        self._sent_file = folder / FILE
        self._noised = folder / NOISED

    @property
    def has_checkpoint(self) -> bool:
        return self._checkpoint.exists()

    def require_free(self) -> None:
        """SettingsError where the folder already holds a run."""
        if self.has_checkpoint:
            raise SettingsError(
                f"{self.folder} already contains a run. Continue it with --resume, or choose another folder with --out."
            )

    def begin(self, made_of: MadeOf | None = None) -> None:
        """Make the folder, refuse one that cannot be written or that already holds a run; bind it to what it is of."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / ".writable", b"")
            (self.folder / ".writable").unlink()
        except OSError as error:
            raise SettingsError(
                f"cannot write to the output folder {self.folder}: {error.strerror}. Choose another with --out."
            ) from None
        self.require_free()
        for left_over in (self._rounds, self._previous, self._sent_file, self._noised):
            left_over.unlink(missing_ok=True)
        if made_of is not None:
            bind(self.folder, made_of)
        if self._private and self._runs is not None:
            write_atomically(self._earlier, json.dumps(earlier(self._runs, than=self.folder)).encode())

    def resume(self, made_of: MadeOf | None = None) -> Progress:
        """The progress of the last complete round; lines of rounds after it are dropped.

        Refused, before anything is changed, where the recipe is another one or the run is not of `made_of`.

        A damaged checkpoint is set aside, and the one of the round before goes on: sites that had trained the lost
        round give the answer that they had given, and are charged nothing. So does a checkpoint whose rounds are not
        all in rounds.jsonl. CheckpointError if neither fits.
        """
        if not self.has_checkpoint:
            raise SettingsError(f"{self.folder} contains no checkpoint; start the run without --resume.")
        then = None if made_of is None else bound(self.folder)
        self._may_differ = () if then is None else MAY_MOVE
        try:
            progress = self._read(self._checkpoint)
        except DamagedCheckpointError as error:
            progress = self._fall_back(error)
        if made_of is not None:
            require_same(self.folder, then or made_of, made_of)
            bind(self.folder, made_of)
        self.keep_first(progress.round)
        return progress

    def keep_first(self, number: int) -> None:
        """Drop the lines of later rounds: one that was cut off before its checkpoint has a line already."""
        kept = self._first(number)
        write_atomically(self._rounds, kept)
        self._digest = hashlib.sha256(kept)

    def receipts(self) -> Ledgers:
        """The newest receipt of every ledger so far, runs before this one included; none without privacy."""
        if not self._private:
            return {}
        before = json.loads(self._earlier.read_bytes()) if self._earlier.exists() else []
        accepted = () if self._runs is None else read_accepted(self._runs)
        return newest([*before, *self._received.records()], accepted)

    @cached_property
    def sent(self) -> SentTasks:
        """What sites were sent, and what they have confirmed."""
        return SentTasks(self.folder)

    def spent(self, *, after_round: int | None = None) -> dict[str, SiteSpent]:
        """What the run may have cost every site so far; nothing without privacy."""
        return self.sent.spent(self._settings, after_round=after_round) if self._private else {}

    def count_noised(self, number: int) -> None:
        """Before anything sees round `number`'s sum with client-level noise: it is counted, and on the disk."""
        before = self._noised.stat().st_size if self._noised.exists() else number - 1
        with self._noised.open("ab") as file:
            file.write(b"." * (before - file.tell() + 1))
            file.flush()
            os.fsync(file.fileno())

    def bytes_up(self) -> dict[int, int]:
        """What every node has sent in the recorded rounds."""
        lines = self._rounds.read_text(encoding="utf-8").splitlines() if self._rounds.exists() else []
        total: Counter[int] = Counter()
        for line in lines:
            for client in json.loads(line)["clients"]:
                total[client["node"]] += client["bytes_up"]
        return dict(total)

    def values(self, figure: str) -> list[float]:
        """The loss or a metric, of the rounds so far that were evaluated."""
        found = [json.loads(line)["evaluation"] for line in self._lines()]
        return [evaluation[figure] for evaluation in found if evaluation is not None]

    def keep(self, record: RoundRecord | None, progress: Progress) -> None:
        """Store a finished round (None: the start of the run)."""
        if record is not None:
            line = (json.dumps(line_of(record)) + "\n").encode()
            with self._rounds.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            self._digest.update(line)
        if self.has_checkpoint:
            self._keep_previous()
        bound = replace(progress, journal=self._digest.hexdigest())
        checkpoint.write(self._checkpoint, bound, recipe=self._recipe)

    def _lines(self) -> list[str]:
        """One a round; none before the first round is complete."""
        return self._rounds.read_text(encoding="utf-8").splitlines() if self._rounds.exists() else []

    def _first(self, rounds: int) -> bytes:
        """The lines of so many rounds, as they are in the file."""
        content = self._rounds.read_bytes() if self._rounds.exists() else b""
        return b"".join(content.splitlines(keepends=True)[:rounds])

    def _read(self, path: Path) -> Progress:
        """The checkpoint, if its rounds are all in rounds.jsonl, as they were; DamagedCheckpointError otherwise."""
        progress = checkpoint.read(path, recipe=self._recipe, may_differ=self._may_differ)
        lines = self._first(progress.round)
        whole = lines.count(b"\n") == progress.round
        if not whole or progress.journal not in (None, hashlib.sha256(lines).hexdigest()):
            raise DamagedCheckpointError(
                f"{self._rounds} does not match {path.name}: lines up to round {progress.round} are "
                "missing or changed, including receipts of what sites have spent. Nothing was changed; restore "
                "the run's folder from a backup, or submit the recipe as a new run."
            )
        return progress

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
            progress = self._read(self._previous)
        except DamagedCheckpointError:
            raise damage from None
        aside = self._checkpoint.with_name("checkpoint.damaged.safetensors")
        write_atomically(aside, self._checkpoint.read_bytes())
        write_atomically(self._checkpoint, self._previous.read_bytes())
        log.warning(
            "the checkpoint is damaged or does not match these rounds; the run continues from the round before",
            extra={"kept": str(aside), "round": progress.round, "why": str(damage)},
        )
        return progress
