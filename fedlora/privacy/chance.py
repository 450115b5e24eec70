"""The process's global random generators: torch's on the CPU and on CUDA, numpy's, Python's."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from fedlora.privacy.refusal import Code, Refusal


@contextmanager
def without_draws(number: int) -> Iterator[None]:
    """Start every global generator from `number`; refuse if the body draws from one; the states before come back."""
    before = _states()
    try:
        random.seed(number)
        np.random.seed(number)
        torch.manual_seed(number)
        started = _described(_states())
        yield
        ended = _described(_states())
    finally:
        _restore(before)
    for name, state in started.items():
        if ended[name] != state:
            raise Refusal(
                Code.UNSUPPORTED_MODEL,
                f"the model draws from {name} random generator while it trains: dropout, router noise or the like "
                "would tie an example's gradient to who else was drawn; switch it off in the model's config.json.",
            )


def _states() -> dict[str, Any]:
    """Every generator's state, under the name it goes by in a message."""
    return {
        "torch's": torch.get_rng_state(),
        "CUDA's": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],  # type: ignore[no-untyped-call]  # torch's
        "numpy's": np.random.get_state(),
        "Python's": random.getstate(),
    }


def _described(states: dict[str, Any]) -> dict[str, bytes]:
    plain = {
        **states,
        "torch's": states["torch's"].numpy(),
        "CUDA's": [state.numpy() for state in states["CUDA's"]],
    }
    return {name: pickle.dumps(state) for name, state in plain.items()}


def _restore(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch's"])
    if states["CUDA's"]:
        torch.cuda.set_rng_state_all(states["CUDA's"])
    np.random.set_state(states["numpy's"])
    random.setstate(states["Python's"])
