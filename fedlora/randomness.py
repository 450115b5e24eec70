"""Randomness has an address: every draw names the stream that it comes from. Privacy noise never comes from here."""

from __future__ import annotations

import hashlib
import random

import torch


def seed_of(seed: int, *path: object) -> int:
    """A 63-bit seed for the stream named by `path`, the same on every machine and Python.

    >>> seed_of(0, "round", 1) == seed_of(0, "round", 1), seed_of(0, "round", 1) == seed_of(0, "round", 2)
    (True, False)
    """
    digest = hashlib.blake2b(repr((seed, *path)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, *path: object) -> torch.Generator:
    """The torch random stream named by `path`."""
    return torch.Generator().manual_seed(seed_of(seed, *path))


def chooser(seed: int, *path: object) -> random.Random:
    """The same for choices among Python objects."""
    return random.Random(seed_of(seed, *path))
