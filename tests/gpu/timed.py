"""Time on a device, and how much of it is left."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Box:
    """A part's time. A part looks before each thing that it begins."""

    seconds: float
    begun: float = field(default_factory=time.monotonic)

    @property
    def left_s(self) -> float:
        return self.seconds - (time.monotonic() - self.begun)

    def has(self, seconds: float) -> bool:
        return self.left_s >= seconds


def waited(device: str) -> float:
    """Now, when the device has done what it was asked for."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds_of(
    work: Callable[[], object], device: str, *, warm: int = 2, most: int = 8, at_most_s: float = 4.0
) -> float:
    """Median wall time; at least one turn is timed. A rehearsal on a CPU has one of each, and tells of no speed."""
    warm, most = (warm, most) if torch.device(device).type == "cuda" else (min(warm, 1), 1)
    for _ in range(warm):
        work()
    found: list[float] = []
    begun = waited(device)
    while not found or (len(found) < most and waited(device) - begun < at_most_s):
        started = waited(device)
        work()
        found.append(waited(device) - started)
    return statistics.median(found)


def peak_mib(device: str) -> float | None:
    """Since `forget_peak`; None on a CPU."""
    return torch.cuda.max_memory_allocated() / 2**20 if torch.device(device).type == "cuda" else None


def forget_peak(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
