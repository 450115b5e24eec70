"""The rows of one step of several clients, cut into passes: rows of like lengths, whoever's they are.

A client's own batch is padded to its longest row; here every row is beside rows of its own length, so that less is
padded than by each client alone. Where the model draws (`client.together.draws`) a client's rows stay together.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fedlora.tasks.base import Item

FIXED: Final[Mapping[str, int]] = {"cpu": 64}
"""What a pass costs before its first token, in tokens: of MiniLM 40 to 110 on a busy machine, from the table that
tests/bench/bench_together.py prints. Of a larger model it is less."""

FIXED_ELSEWHERE: Final = 8192
"""Of a GPU it is an estimate, from a thousand launches of 5 µs."""


@dataclass(frozen=True)
class Row:
    """One example in one client's step."""

    client: int
    item: Item
    length: int
    weight: float
    """Of its loss in the step's gradient."""


def passes(rows: Sequence[Row], *, most: int, device: str = "cpu", whole: bool = False) -> list[list[Row]]:
    """Those that cost least, of at most so many rows, the shortest first. With `whole` a client's rows stay side by
    side, and a pass has more than that only where one client does."""
    by_client = (list(own) for _, own in itertools.groupby(rows, key=lambda row: row.client))
    units = sorted(by_client if whole else ([row] for row in rows), key=longest)
    fixed = fixed_on(device)
    cost, begins = [0.0], [0]
    for end in range(1, len(units) + 1):
        length, count, best = longest(units[end - 1]), 0, (float("inf"), end)
        for begin in range(end - 1, -1, -1):
            count += len(units[begin])
            if count > most and begin < end - 1:
                break
            best = min(best, (cost[begin] + fixed + count * length, begin))
        cost.append(best[0])
        begins.append(best[1])
    found, end = [], len(units)
    while end:
        found.append([row for unit in units[begins[end] : end] for row in unit])
        end = begins[end]
    return found[::-1]


def cost_of(parts: Iterable[Sequence[Row]], *, device: str) -> int:
    """Of a forward and backward pass over each, in tokens."""
    return sum(fixed_on(device) + len(part) * longest(part) for part in parts)


def fixed_on(device: str) -> int:
    return FIXED.get(device.partition(":")[0], FIXED_ELSEWHERE)


def longest(rows: Sequence[Row]) -> int:
    return max(row.length for row in rows)
