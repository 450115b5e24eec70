"""The lengths that texts are padded to under privacy: a fixed list."""

from __future__ import annotations

SHORTEST = 8
"""Tokens. Finer steps would fill more microbatches than they save padding (docs/LOG.md)."""


def public_length(tokens: int, *, most: int) -> int:
    """The length from a fixed list that a text of `tokens` is padded to: 8, 16, ... 64, 80, 96, ... 128, ... `most`.

    Padding to the longest text of a batch would make everybody's computation depend on who else was drawn. At most 7
    tokens more than the text up to 64, an eighth to a quarter more from there on.

    >>> [public_length(tokens, most=500) for tokens in (1, 8, 9, 64, 65, 129, 499)]
    [8, 8, 16, 64, 80, 160, 500]
    """
    step = SHORTEST
    while tokens > 8 * step:
        step *= 2
    return max(tokens, min(most, -(-tokens // step) * step))
