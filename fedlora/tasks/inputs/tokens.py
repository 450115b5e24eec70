"""What tasks of token ids share: padding, invented texts, and tokens that a model does not know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from fedlora.models.quiet import quiet_transformers
from fedlora.settings import SettingsError
from fedlora.tasks.base import IGNORED, Item
from fedlora.tasks.inputs.padding import public_length


def require_fast(processor: PreTrainedTokenizerBase) -> None:
    """SettingsError for a tokenizer that does not say which characters a token is made of."""
    if not processor.is_fast:
        raise SettingsError(f"{type(processor).__name__} is a slow tokenizer; choose a model with a fast one.")


class OverTokens:
    """What every task of token ids answers in the same way."""

    def processor(self, source: str, *, model_id: str) -> PreTrainedTokenizerBase:
        """The tokenizer; one without a padding token pads with its end token. SettingsError if it has neither."""
        with quiet_transformers():
            try:
                tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            except (OSError, ValueError) as error:
                raise SettingsError(
                    f"cannot load the tokenizer of {model_id!r}: {str(error).splitlines()[0]}"
                ) from None
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        if tokenizer.pad_token_id is None:
            raise SettingsError(
                f"the tokenizer of {model_id!r} has no padding token and no end token; batches cannot be padded."
            )
        return tokenizer

    def padding(self, processor: PreTrainedTokenizerBase) -> int:
        if processor.pad_token_id is None:
            raise SettingsError("the tokenizer has no padding token and no end token; batches cannot be padded.")
        return int(processor.pad_token_id)

    def length(self, item: Item) -> int:
        return len(item["input_ids"])

    def positions(self, model: nn.Module, *, longest: int) -> int:
        return longest

    def pads_with(self, model: nn.Module, padding: int) -> bool:
        return padding < vocabulary_of(model)

    def usable(self, model: nn.Module) -> Callable[[Item], bool]:
        """Whether the model knows every token."""
        vocabulary = vocabulary_of(model)
        return lambda item: int(item["input_ids"].max()) < vocabulary

    def ignored(self, item: Item) -> Item:
        """One token that every model knows, and nothing to learn."""
        labels = item["labels"][:1] if item["labels"].ndim else item["labels"]
        return {**item, "input_ids": item["input_ids"].new_zeros(1), "labels": torch.full_like(labels, IGNORED)}


def padded(items: Sequence[Item], *, padding: int, length: int = 0) -> dict[str, Tensor]:
    """input_ids (b, t) and attention_mask (b, t), to the longest of the items, and to `length` if that is more."""
    input_ids = filled([item["input_ids"] for item in items], padding, length=length)
    lengths = torch.tensor([len(item["input_ids"]) for item in items])
    mask = (torch.arange(input_ids.shape[1])[None] < lengths[:, None]).long()
    return {"input_ids": input_ids, "attention_mask": mask}


def filled(rows: Sequence[Tensor], value: int, *, length: int = 0) -> Tensor:
    """Rows of unlike length (b, t), filled up on the right."""
    together = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)
    return torch.nn.functional.pad(together, (0, max(0, length - together.shape[1])), value=value)


def invented_texts(vocabulary: int, *, longest: int, padding: int) -> list[Tensor]:
    """Ids of six texts of nobody: three short ones and three long ones.

    The long ones are what the longest texts of the data will be: two of `longest`, and the shortest that is padded to
    as much.
    """
    as_long = [n for n in range(1, longest + 1) if public_length(n, most=longest) == longest]
    lengths = [*(min(longest, tokens) for tokens in (2, 5, 3)), longest, longest, as_long[0]]
    known = torch.tensor([token for token in range(min(vocabulary, 1000)) if token != padding] or [0])
    return [known[torch.arange(length) * (2 + row) % len(known)] for row, length in enumerate(lengths)]


def vocabulary_of(model: nn.Module) -> int:
    """How many tokens the model knows."""
    reader: Any = model
    return int(reader.get_input_embeddings().num_embeddings)
