"""The likeliest token, again and again: what `generate(do_sample=False)` gives, a token at a time.

An own loop because it can be left at any token, and two models can take turns (`fedlora.results.writes.chat`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from fedlora.adapters.untouched import untouched
from fedlora.config import ModelSettings
from fedlora.models.base import autocast

BROKEN = "�"
"""What a decoder writes for half a character: the rest of it is the next token's."""


def greedy(
    model: nn.Module, prompt: Sequence[int], *, on: ModelSettings, ends: Collection[int], most: int, base: bool = False
) -> Iterator[int]:
    """Up to and with the first token of `ends`, and at most `most`. `base`: as the model was loaded, without adapter.

    A model that keeps no keys and values reads everything again for each token.
    """
    ids_1t = torch.tensor([list(prompt)], device=on.device)
    unread_1t, past = ids_1t, None
    for _ in range(most):
        with untouched(model) if base else nullcontext():
            token, past = next_token(model, unread_1t, past, on)
        yield token
        if token in ends:
            return
        new_11 = torch.tensor([[token]], device=on.device)
        ids_1t = torch.cat([ids_1t, new_11], 1)
        unread_1t = ids_1t if past is None else new_11


@torch.inference_mode()
def next_token(model: nn.Module, unread_1t: Tensor, past: Any, on: ModelSettings) -> tuple[int, Any]:
    """The likeliest, and the keys and values of all that was read; None of a model that keeps none."""
    kept = {} if past is None else {"past_key_values": past}
    with autocast(on):
        found = model(input_ids=unread_1t, use_cache=True, **kept)
    return int(found.logits[0, -1].argmax()), getattr(found, "past_key_values", None)


def written(tokens: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of an answer, without special tokens."""
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True))


def pieces(tokens: Iterator[int], tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """The text as it comes, never half a character; together it is what `written` makes of all tokens."""
    known: list[int] = []
    said = ""
    for token in tokens:
        known.append(token)
        text = written(known, tokenizer)
        if not text.endswith(BROKEN) and text.startswith(said):
            yield text[len(said) :]
            said = text
    rest = written(known, tokenizer)
    if rest != said:
        yield rest[len(said) :]
