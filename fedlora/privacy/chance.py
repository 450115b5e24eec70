"""The process's global random generators: torch's on the CPU and on CUDA, numpy's, Python's."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch

from fedlora.privacy.refusal import Code, Refusal

T = TypeVar("T")

SHARED, TRIES = "Python's", 5
"""Other threads of the process draw from this one (heartbeats, retries), now and then; what a model draws, it draws in
every try."""


def without_draws(number: int, call: Callable[[], T]) -> T:
    """The call's result, every global generator started from `number`; refused if it draws from one. The states before
    come back. `call` must do the same each time: it may be tried more than once."""
    for _ in range(TRIES):
        result, drawn = _draws(number, call)
        if drawn != [SHARED]:
            break
    if drawn:
        raise Refusal(
            Code.UNSUPPORTED_MODEL,
            f"the model draws from {drawn[0]} random generator while it trains: dropout, router noise or the like "
            "would tie an example's gradient to who else was drawn; switch it off in the model's config.json.",
        )
    return result


def _draws(number: int, call: Callable[[], T]) -> tuple[T, list[str]]:
    """The result, and the generators that were drawn from meanwhile."""
    before = _states()
    try:
        random.seed(number)
        np.random.seed(number)
        torch.manual_seed(number)
        started = _described(_states())
        result = call()
        ended = _described(_states())
    finally:
        _restore(before)
    return result, [name for name, state in started.items() if ended[name] != state]


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
