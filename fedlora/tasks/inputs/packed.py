"""Several texts in one row, none of which sees another: less padding, and the same losses.

    tokens      a a a a b b c c c .        positions restart with every text: transformers reads from that where one
    positions   0 1 2 3 0 1 0 1 2 0        ends, and makes a mask that is causal within a text and closed between two
    examples    4 4 4 4 0 0 2 2 2          (and turns by place within the text)

TRL fills rows of one length, and a step has however many texts fit; here a step has the texts that it had.
Shapes: b examples, n rows, t tokens of the longest row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedlora.tasks.base import IGNORED, Batch, Item
from fedlora.tasks.inputs.tokens import filled


def packed(items: Sequence[Item], *, padding: int) -> Batch:
    """input_ids, position_ids, labels and examples (n, t): the last is the place of each token's item; `count` ()."""
    rows = rows_of([len(item["input_ids"]) for item in items])

    def together(name: str, value: int) -> Tensor:
        return filled([torch.cat([items[place][name] for place in row]) for row in rows], value)

    lengths = [[len(items[place]["input_ids"]) for place in row] for row in rows]
    positions = [torch.cat([torch.arange(length) for length in row]) for row in lengths]
    places = [torch.tensor(row).repeat_interleave(torch.tensor(of)) for row, of in zip(rows, lengths, strict=True)]
    return {
        "input_ids": together("input_ids", padding),
        "labels": together("labels", IGNORED),
        "position_ids": filled(positions, 0),  # padding is a text by itself, of which nothing is learnt
        "examples": filled(places, 0),
        "count": torch.tensor(len(items)),
    }


def rows_of(lengths: Sequence[int]) -> list[list[int]]:
    """Places by row: of all numbers of rows, the one with the least padding, where none is longer than twice the
    longest text. Attention costs the square of a row, masked or not: one row of all would cost more than it saves.

    >>> rows_of([2, 5, 3, 9, 4])
    [[3, 2], [1, 4, 0]]
    """
    most = 2 * max(lengths)
    found = [balanced(lengths, rows) for rows in range(1, len(lengths) + 1)]

    def wide(rows: list[list[int]]) -> int:
        return max(sum(lengths[place] for place in row) for row in rows)

    return min((rows for rows in found if wide(rows) <= most), key=lambda rows: (len(rows) * wide(rows), wide(rows)))


def balanced(lengths: Sequence[int], rows: int) -> list[list[int]]:
    """So many rows: the longest text first, each into the row that is shortest so far."""
    found: list[list[int]] = [[] for _ in range(rows)]
    filled_to = [0] * rows
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        row = min(range(rows), key=filled_to.__getitem__)
        found[row].append(place)
        filled_to[row] += lengths[place]
    return found
