"""How long a text a model can read, found by letting it read one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class TooLongError(Exception):
    """The model has fewer places for tokens than the text that it was given."""

    def __init__(self, positions: int) -> None:
        super().__init__(f"{positions} positions")
        self.positions = positions


@torch.no_grad()
def try_full_length(encoder: nn.Module, *, tokens: int) -> Any:
    """Run a text of `tokens` tokens; returns what comes out. TooLongError where positions run out.

    A table of positions is asked for a row that it does not have only after this has looked: on CUDA that ends the
    process' use of the device, not just the call.
    """
    reader: Any = encoder
    words: nn.Module = reader.get_input_embeddings()
    table: Any = words
    config: Any = reader.config
    padding = getattr(config.get_text_config(), "pad_token_id", None)
    known = torch.tensor([token for token in range(min(int(table.num_embeddings), 1000)) if token != padding] or [0])
    ids_bt = known[torch.arange(tokens) % len(known)][None].to(table.weight.device)
    text = {"input_ids": ids_bt, "attention_mask": torch.ones_like(ids_bt)}
    if "token_type_ids" in inspect.signature(encoder.forward).parameters:
        text["token_type_ids"] = torch.zeros_like(ids_bt)  # RoBERTa looks them up by position, before its table
    with watched_tables(encoder, words, tokens=tokens):
        return encoder(**text)


@contextmanager
def watched_tables(encoder: nn.Module, words: nn.Module, *, tokens: int) -> Iterator[None]:
    """Raise TooLongError before any embedding but the words' is asked for a row that it lacks."""

    def look(rows: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            most = int(inputs[0].max()) if inputs and isinstance(inputs[0], Tensor) and inputs[0].numel() else -1
            if most >= rows:
                raise TooLongError(tokens - (most - rows + 1))

        return hook

    tables = [m for m in encoder.modules() if isinstance(m, nn.Embedding) and m is not words]
    hooks = [table.register_forward_pre_hook(look(table.num_embeddings)) for table in tables]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
