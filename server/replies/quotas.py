"""Counters of what each client has sent, for `quotas`. Answers over a quota are never decoded."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping

from flwr.app import Message

from fedlora.config.clients.quotas import QuotaSettings

MINUTE_S = 60.0


class Meter:
    """Counts by node for a whole run; `bytes_before` is what rounds before a resume took."""

    def __init__(
        self,
        settings: QuotaSettings,
        bytes_before: Mapping[int, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._run_bytes = Counter(bytes_before or {})
        self._round_bytes: Counter[int] = Counter()
        self._answers: dict[int, deque[float]] = {}
        self._clock = clock

    def begin_round(self) -> None:
        self._round_bytes.clear()

    def count(self, node: int, size: int) -> str | None:
        """Count one answer of `size` bytes; the code of the quota that it breaks, or None. What is over counts too."""
        quota = self._settings
        self._round_bytes[node] += size
        self._run_bytes[node] += size
        if quota.answers_per_minute is not None and self._answered(node, keep=quota.answers_per_minute + 1) > (
            quota.answers_per_minute
        ):
            return "over-answers-per-minute"
        if quota.bytes_per_round is not None and self._round_bytes[node] > quota.bytes_per_round:
            return "over-bytes-per-round"
        if quota.bytes_per_run is not None and self._run_bytes[node] > quota.bytes_per_run:
            return "over-bytes-per-run"
        return None

    def _answered(self, node: int, *, keep: int) -> int:
        """How many answers in the last minute, this one among them; a flood is remembered up to `keep`."""
        recent, now = self._answers.setdefault(node, deque(maxlen=keep)), self._clock()
        recent.append(now)
        while now - recent[0] >= MINUTE_S:
            recent.popleft()
        return len(recent)


def content_bytes(message: Message) -> int:
    """Bytes of whatever an answer holds, wanted or not; 0 for an error."""
    if not message.has_content():
        return 0
    content = message.content
    arrays = sum(len(array.data) for record in content.array_records.values() for array in record.values())
    values = [value for record in content.config_records.values() for value in record.values()]
    values += [value for metrics in content.metric_records.values() for value in metrics.values()]
    return arrays + sum(value_bytes(value) for value in values)


def value_bytes(value: object) -> int:
    """Bytes of one value of a record: text and bytes by length, numbers 8, lists the sum of theirs."""
    if isinstance(value, str | bytes):
        return len(value.encode() if isinstance(value, str) else value)
    if isinstance(value, list):
        return sum(value_bytes(item) for item in value)
    return 8
