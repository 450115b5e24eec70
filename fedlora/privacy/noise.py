"""Noise and sampling bits from a stream cipher that the operating system keys.

torch's CPU generator keeps 32 bits of its seed, so noise drawn from it can be found by trying seeds; seeding it with
`os.urandom` changes nothing. Here every step has its own 256-bit key. Values are float64 Box-Muller; the noisy sum is
snapped to a grid, because the low bits of floating-point noise tell the value that it hides
(Mironov, On Significance of the Least Significant Bits for Differential Privacy, CCS 2012).

Guarantee of `SecureSource`: every stream is ChaCha20 under a fresh key from `os.urandom`; no seed of a run, a recipe or
torch changes it; two streams, in one process or in two, are independent.
"""

from __future__ import annotations

import hashlib
import math
import os
from typing import Final, Protocol

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray
from torch import Tensor

GRID_BITS: Final = 20
_UNIT: Final = 2.0**-53


class Stream:
    """One step's random bits: ChaCha20 over zeros. Values come in the order in which they are asked for."""

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            raise ValueError(f"a stream key has 32 bytes, got {len(key)}.")
        self._cipher = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()

    def uniform(self, count: int) -> NDArray[np.float64]:
        """`count` values in [0, 1), multiples of 2^-53."""
        words = np.frombuffer(self._cipher.update(bytes(8 * count)), dtype="<u8")
        values: NDArray[np.float64] = (words >> np.uint64(11)).astype(np.float64) * _UNIT
        return values

    def gaussian(self, count: int) -> NDArray[np.float64]:
        """`count` independent standard normal values; none exceeds 8.6 (probability 1e-17 each), below any δ in use."""
        pairs = (count + 1) // 2
        radius = np.sqrt(-2.0 * np.log(self.uniform(pairs) + _UNIT))
        angle = (2.0 * math.pi) * self.uniform(pairs)
        values = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        return values[:count]


class Noise(Protocol):
    """What gives random values in the order in which they are asked for: a `Stream`."""

    def uniform(self, count: int) -> NDArray[np.float64]: ...
    def gaussian(self, count: int) -> NDArray[np.float64]: ...


class Source(Protocol):
    """Where a step's stream comes from."""

    @property
    def secure(self) -> bool:
        """Whether nobody, the run's author included, can predict or repeat a stream."""
        ...

    def fresh(self) -> Stream:
        """The stream of the next step; never the same twice."""
        ...


class SecureSource:
    """The operating system's generator keys every stream. The only source for examples that matter."""

    @property
    def secure(self) -> bool:
        return True

    def fresh(self) -> Stream:
        return Stream(os.urandom(32))


class SeededSource:
    """Tests only: streams that a seed repeats. Everything made with it is marked insecure.

    `path` says whose stream it is (client, run, round), so that equal seeds at two clients still draw differently.
    """

    def __init__(self, seed: int, *path: object) -> None:
        self._seed = repr((seed, *path)).encode()
        self._streams = 0

    @property
    def secure(self) -> bool:
        return False

    def fresh(self) -> Stream:
        self._streams += 1
        message = b"fedlora-insecure|%d|" % self._streams + self._seed
        return Stream(hashlib.blake2b(message, digest_size=32).digest())


def poisson_sample(stream: Noise, *, examples: int, rate: float) -> Tensor:
    """Indices of the examples drawn, each independently with probability `rate`, ascending; possibly none."""
    drawn: Tensor = torch.from_numpy(np.flatnonzero(stream.uniform(examples) < rate))
    return drawn


def privatise(total: Tensor, stream: Noise, *, noise_std: float) -> Tensor:
    """The float64 `total` plus N(0, noise_std²) on every value, snapped to `grid`. Shape and device are kept."""
    noise = _on(total.device, torch.from_numpy(stream.gaussian(total.numel()))).view(total.shape)
    step = grid(noise_std)
    return noise.mul_(noise_std).add_(total.double()).div_(step).round_().mul_(step)


def grid(noise_std: float) -> float:
    """The smallest power of two that is at least 2^-20 of the noise: float32 then holds the snapped values exactly.

    >>> grid(1.0) == 2**-20, grid(1.5) == 2**-19
    (True, True)
    """
    return math.ldexp(1.0, math.ceil(math.log2(noise_std)) - GRID_BITS)


def _on(device: torch.device, values: Tensor) -> Tensor:
    """A GPU reads from page-locked memory by itself, while the process goes on."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)
