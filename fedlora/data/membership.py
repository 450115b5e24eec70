"""Which rows train and which test: decided row by row, by a keyed hash of the text, so that no row moves another.

    u(text) = BLAKE2b(key, purpose, text) as a number in [0, 1)

    held_out   a number: the N texts with the smallest u
               a share: u < share, and the text with the smallest u in any case
    split      test:  u < test_fraction, and the text with the smallest u in any case
               train: the rest; with `train_fraction`, of these only u < test_fraction + train_fraction

A permutation of the row count, which a seed or a size decides, is not stable: of 900 training rows, one row more made
83 leave and 84 join. Here:

Guarantee (1-stable): one text more or less among those given makes at most one text join or leave what trains, and the
same holds for all that `held_out` leaves. (The text with the smallest u: a new one takes its place only by being a test
text itself, and at most the one before it comes back. The N smallest: what enters pushes one out.) The key is secret
where the texts are: whoever knows it can tell which side a text would be on. One key for several clients puts a text on
the same side at all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator

KEY_BYTES = 32


def share_or_number(value: Any) -> float:
    """A share as it is, a number of texts as an int; ValueError for what is neither.

    >>> share_or_number(0.1), share_or_number(500), share_or_number(5e2)
    (0.1, 500, 500)
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and 0 < value < 1:
        return float(value)
    if number and value >= 1 and (isinstance(value, int) or (value > 1 and value.is_integer())):
        return int(value)
    raise ValueError(
        f"give a share between 0 and 1, such as 0.1, or a whole number of texts, such as 500; got {value!r}."
    )


ShareOrNumber = Annotated[int | float, BeforeValidator(share_or_number)]


def key_of(seed: int) -> bytes:
    """The key of a simulation: its texts are nobody's, and the same seed splits alike."""
    return hashlib.blake2b(repr((seed, "membership")).encode(), digest_size=KEY_BYTES).digest()


def place(text: str, key: bytes, purpose: str) -> float:
    """u(text): uniform in [0, 1) for whoever does not know the key, and of its own for every purpose."""
    return (digest(text, key, purpose) >> 11) / 2**53


def digest(text: str, key: bytes, purpose: str) -> int:
    """A keyed hash of the text, 64 bits. `purpose`: at most 16 bytes."""
    content = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8, key=key, person=purpose.encode()).digest(), "big")


def held_out(texts: Iterable[str], wanted: float, key: bytes) -> frozenset[str]:
    """So many distinct texts, those with the smallest u, or all where there are fewer; below 1, that share of them."""
    order = sorted((place(text, key, "held out"), text) for text in set(texts))
    if wanted >= 1:
        return frozenset(text for _, text in order[: int(wanted)])
    return frozenset(text for number, (u, text) in enumerate(order) if u < wanted or number == 0)


def split(
    texts: Sequence[str], key: bytes, *, test_fraction: float, train_fraction: float | None = None
) -> tuple[list[int], list[int]]:
    """Positions of distinct texts to train and to test on, in their order. One text alone is tested on."""
    if not texts:
        return [], []
    places = [place(text, key, "test") for text in texts]
    first = min(range(len(texts)), key=lambda index: (places[index], texts[index]))
    tests = {index for index, u in enumerate(places) if u < test_fraction} | {first}
    end = 1.0 if train_fraction is None else test_fraction + train_fraction
    train = [index for index, u in enumerate(places) if u < end and index not in tests]
    return train, sorted(tests)


def first_of(texts: Sequence[str], count: int | None, key: bytes) -> list[int]:
    """Positions of the `count` texts with the smallest u, in their order; all of them for None.

    Not 1-stable: a text that enters pushes another out. Never under example-level privacy.
    """
    order = sorted(range(len(texts)), key=lambda index: (place(texts[index], key, "test"), texts[index]))
    return sorted(order[:count])
