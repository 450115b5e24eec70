"""Attention masks that are always created, so that padding elsewhere in a batch changes no other example's arithmetic.

transformers leaves the mask out where no token of the batch is padding: one shorter text in the batch, and every other
text is computed by another path. In exact numbers the two agree. In bfloat16 on a CPU an example's gradient moved by
4e-4 of its norm with its company, which is no function of that example alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

MADE_BY = ("eager", "sdpa")
"""Where transformers makes masks of the whole batch. Other kinds of attention are judged by the rehearsal alone."""

_always: ContextVar[bool] = ContextVar("all masks were created", default=False)

Mask = Callable[..., Any]


@contextmanager
def every_mask_made() -> Iterator[None]:
    """No mask is left out in this thread until the end, whatever the batch holds."""
    before = _always.set(True)
    try:
        yield
    finally:
        _always.reset(before)


def _made(mask: Mask) -> Mask:
    def made(*args: Any, **settings: Any) -> Any:
        if _always.get():
            settings |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        return mask(*args, **settings)

    return made


for _name in MADE_BY:
    ALL_MASK_ATTENTION_FUNCTIONS[_name] = _made(ALL_MASK_ATTENTION_FUNCTIONS[_name])
