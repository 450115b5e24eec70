"""Sees every round complete, by this process's own clock: those of the drill's processes are not to be trusted."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.chaos.report import Injected

POLL_S = 0.2


class RoundWatch:
    """A thread that reads rounds.jsonl as it grows (and shrinks, after a damaged checkpoint)."""

    def __init__(self, run: Path) -> None:
        self._path = run / "rounds.jsonl"
        self._seen: list[tuple[float, dict[str, Any]]] = []
        self._before = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> RoundWatch:
        self._before = len(self._path.read_text().splitlines()) if self._path.exists() else 0
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def rounds_since(self, moment: float) -> int:
        """Rounds completed after it."""
        return sum(when > moment for when, _ in self._seen)

    def all_trained(self, sites: Iterable[str], *, since: float) -> bool:
        """Whether one round after that moment had an update of every site."""
        return any(set(sites) <= trained(record) for when, record in self._seen if when > since)

    def timed(self, injected: Iterable[Injected]) -> list[Injected]:
        """With what was seen: seconds until the next round, and until the site trained again."""
        return [replace(item, next_round_s=self._next(item), site_back_s=self._back(item)) for item in injected]

    def _next(self, item: Injected) -> float | None:
        return next((when - item.began for when, _ in self._seen if when > item.over), None)

    def _back(self, item: Injected) -> float | None:
        """Counted from the second round after the fault: the first one may have had the site's answer before it."""
        if item.site is None:
            return None
        after = [(when, record) for when, record in self._seen if when > item.over][1:]
        return next((when - item.over for when, record in after if item.site in trained(record)), None)

    def _watch(self) -> None:
        lines = self._before
        while not self._stop.wait(POLL_S):
            found = self._path.read_text().splitlines() if self._path.exists() else []
            for line in found[min(lines, len(found)) :]:
                try:
                    self._seen.append((time.monotonic(), json.loads(line)))
                except ValueError:  # the last line is still being written
                    found = found[:-1]
            lines = len(found)


def trained(record: dict[str, Any]) -> set[str]:
    return {client["client"] for client in record["clients"] if client["outcome"] == "trained"}
