"""The process's global random generators: torch's on the CPU and on CUDA, numpy's, Python's."""

from __future__ import annotations

import pickle
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch

from fedlora.privacy.refusal import Code, Refusal

T = TypeVar("T")


ONE_AT_A_TIME = threading.RLock()


def without_draws(number: int, call: Callable[[], T]) -> T:
    """The call's result, every global generator started from `number`; refused if it draws from one. The states before
    come back. One call at a time in a process: the generators are everybody's."""
    with ONE_AT_A_TIME, _own_for_other_threads():
        result, drawn = _draws(number, call)
    if drawn:
        raise Refusal(
            Code.UNSUPPORTED_MODEL,
            f"the model draws from {drawn[0]} random generator while it trains. Dropout, router noise and the "
            "like make an example's gradient depend on the other examples drawn; turn it off in the model's "
            "config.json.",
        )
    return result


@contextmanager
def _own_for_other_threads() -> Iterator[None]:
    """Meanwhile threads that are there already draw from a generator of their own where they ask the module `random`:
    heartbeats and retries draw their pauses, and what they draw is not the model's. Threads that are started from now
    on, and who took a function of that module before, draw from the shared one. A model that hands its draws to a
    thread that was there is not found out: it is code that the site has installed."""
    others = {*threading.enumerate()} - {threading.current_thread()}  # not by number: those are used again
    own = random.Random()
    bound = {name: getattr(random, name) for name in random.__all__}
    shared = {name: found for name, found in bound.items() if type(getattr(found, "__self__", None)) is random.Random}

    def either(of_all: Callable[..., Any], of_others: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: (of_others if threading.current_thread() in others else of_all)(*args, **kwargs)

    vars(random).update({name: either(found, getattr(own, name)) for name, found in shared.items()})
    try:
        yield
    finally:
        vars(random).update(shared)


def _draws(number: int, call: Callable[[], T]) -> tuple[T, list[str]]:
    """The result, and the generators that were drawn from meanwhile."""
    before = _states()
    try:
        random.seed(number)
        np.random.seed(number)
        _seed_torch(number)
        started = _described(_states())
        result = call()
        ended = _described(_states())
    finally:
        _restore(before)
    return result, [name for name, state in started.items() if ended[name] != state]


def _seed_torch(number: int) -> None:
    """`torch.manual_seed` for the devices that are in use: for every other kind it writes down the whole call stack,
    which took a tenth of a private round. A device that is first used meanwhile has a state where there was none."""
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch's
        torch.cuda.manual_seed_all(number)


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
