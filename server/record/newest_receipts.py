"""The newest receipts of a run that grows: every round's line is read once, not all lines in every round."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class NewestReceipts:
    """What `record.receipts.newest` needs of a rounds.jsonl: of each ledger and key the record with the highest number.

    Guarantee: `newest(self.records())` is `newest` of all whole lines of the file as it is now, whoever has written or
    replaced it since.
    """

    def __init__(self, rounds: Path) -> None:
        self._rounds = rounds
        self._file: int | None = None
        self._read = 0
        self._newest: dict[tuple[str, str, str | None], dict[str, Any]] = {}

    def records(self) -> list[dict[str, Any]]:
        """Client records in the order in which they stand; none of a file that is not there, nor of half a line."""
        try:
            with self._rounds.open("rb") as file:
                about = os.fstat(file.fileno())
                if about.st_ino != self._file or about.st_size < self._read:
                    self._begin(file=about.st_ino)
                file.seek(self._read)
                found = file.read()
        except FileNotFoundError:
            self._begin(file=None)
            return []
        whole = found[: found.rfind(b"\n") + 1]
        for line in whole.splitlines():
            for client in json.loads(line)["clients"]:
                self._keep(client)
        self._read += len(whole)
        return list(self._newest.values())

    def _begin(self, *, file: int | None) -> None:
        self._file = file
        self._read = 0
        self._newest = {}

    def _keep(self, client: dict[str, Any]) -> None:
        receipt, signature = client.get("receipt"), client.get("signature")
        if not receipt:
            return
        ledger = (receipt["client"], receipt["dataset"], signature["public_key"] if signature else None)
        known = self._newest.get(ledger)
        if known is None or receipt["sequence"] > known["receipt"]["sequence"]:
            self._newest.pop(ledger, None)  # what is kept stays in the order of the file: the first of equals counts
            self._newest[ledger] = client
