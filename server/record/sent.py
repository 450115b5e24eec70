"""sent.jsonl: what every site is sent in a private run, on the disk before it goes out, and the receipts for it.

    {"round": 3, "sent": [[node, "site" or null, "digest of the task"], ...]}      before round 3's messages are sent
    {"round": 3, "node": 17, "task": "digest of the task", "receipt": {...}, "key": "PEM"}     as each answer comes in

Rounds that fail, and rounds that a resume does again, stay in it. A crash between the line and the sending leaves a
task that nobody got: ε is then said too high, never too low. Only whole lines count; the first kind is fsynced.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlora.config import Recipe
from fedlora.privacy.receipt import Receipt
from fedlora.privacy.unconfirmed import Confirmed, Sent, SiteSpent, spent_by_site
from fedlora.protocol.versions import recorded
from fedlora.settings import SettingsError

FILE = "sent.jsonl"

Spent = Callable[[int | None], Mapping[str, SiteSpent]]
"""The most that a run may have cost every site: after a round, or (None) up to now."""


@dataclass(frozen=True)
class Posted:
    """A task for a node, and the site behind it where that is known."""

    round: int
    node: int
    site: str | None
    task: str


@dataclass(frozen=True)
class Returned:
    """A receipt that a node sent for a task."""

    round: int
    node: int
    task: str
    receipt: Receipt
    key: str | None
    """The public key that signed it."""


class SentTasks:
    """One run's tasks and receipts. Rounds that an older version ran without this file are read from rounds.jsonl."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._whole = False
        self._posted: list[Posted] = []
        self._returned: list[Returned] = []
        for line in _lines(self._path):
            self._remember(line)
        known, later = {item.round for item in self._posted}, self._returned
        self._returned = []
        for line in _lines(folder / "rounds.jsonl"):
            if line["round"] not in known:
                self._recall(line)
        self._returned += later  # in the order in which they came: the numbers of a ledger rise

    def post(self, number: int, tasks: Iterable[tuple[int, str | None, str]]) -> None:
        """Write down the round's tasks (node, site, digest); they may be sent when this returns."""
        line = {"round": number, "sent": [list(task) for task in tasks]}
        self._append(line, to_disk=True)

    @property
    def returned(self) -> Sequence[Returned]:
        """Every receipt, in the order in which they came."""
        return self._returned

    def confirm(self, number: int, node: int, task: str, receipt: Receipt, key: str | None) -> None:
        """Write down a receipt and the key that signed it. Lost in a crash, it is missing until the site sends it
        again, or a newer one."""
        line = {"round": number, "node": node, "task": task, "receipt": recorded(receipt), "key": key}
        self._append(line, to_disk=False)

    def spent(self, recipe: Recipe, *, after_round: int | None = None) -> dict[str, SiteSpent]:
        """What every site may have been charged in the run: now, or with what was sent up to the end of a round."""

        def counts(item: Posted | Returned) -> bool:
            return after_round is None or item.round <= after_round

        names = {item.node: item.receipt.client for item in self._returned}
        sent = (
            Sent(item.site or names.get(item.node, str(item.node)), item.task) for item in filter(counts, self._posted)
        )
        confirmed = (
            Confirmed(item.receipt.client, item.task, item.receipt, item.key) for item in filter(counts, self._returned)
        )
        return spent_by_site(recipe, sent, confirmed)

    def _append(self, line: Mapping[str, Any], *, to_disk: bool) -> None:
        if not self._whole:
            _cut_to_whole_lines(self._path)
            self._whole = True
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            if to_disk:
                os.fsync(file.fileno())
        self._remember(line)

    def _remember(self, line: Mapping[str, Any]) -> None:
        number = line["round"]
        if "sent" in line:
            self._posted += [Posted(number, node, site, task) for node, site, task in line["sent"]]
        else:
            receipt = Receipt.model_validate(line["receipt"])
            self._returned.append(Returned(number, line["node"], line["task"], receipt, line.get("key")))

    def _recall(self, line: Mapping[str, Any]) -> None:
        """Everybody in a round's record was asked, once; a receipt names its task."""
        for client in line["clients"]:
            receipt = client.get("receipt")
            task = receipt["task"] if receipt else f"round {line['round']}"
            self._posted.append(Posted(line["round"], client["node"], client["client"], task))
            if receipt:
                found, signature = Receipt.model_validate(receipt), client.get("signature")
                key = signature["public_key"] if signature else None
                self._returned.append(Returned(line["round"], client["node"], task, found, key))


def _cut_to_whole_lines(path: Path) -> None:
    """Before the first line of a writer, and of nobody who only reads: what a crash left of a line was not sent."""
    content = path.read_bytes() if path.exists() else b""
    if content and not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


def _lines(path: Path) -> list[dict[str, Any]]:
    """SettingsError where a whole line is no JSON object: what a site may have spent would be forgotten."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    try:
        found: list[dict[str, Any]] = [{**json.loads(line)} for line in lines]
    except (ValueError, TypeError):
        raise SettingsError(
            f"{path} is damaged: it records what sites may have spent in this run. Restore it from a backup."
        ) from None
    return found
