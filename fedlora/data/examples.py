"""Examples: tokenised once, padded to the batch."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from fedlora.data.rows import Row
from fedlora.settings import SettingsError
from fedlora.tasks import Batch

log = logging.getLogger(__name__)

LARGEST_ID = 2**31
IGNORED = -100
"""The label of an example that is there and has no loss: cross-entropy leaves it out."""

SHORTEST = 8
"""Tokens. Finer steps would fill more microbatches than they save padding (docs/LOG.md)."""

COMPANIES = ((0, 1, 2), (3, 4, 5))
"""The rows of `invented` that are computed together."""


@dataclass(frozen=True)
class Examples:
    """Tokenised examples: ids as one flat row, so that a thousand simulated clients can share the tensors."""

    token_ids: Sequence[Tensor]
    labels_n: Tensor
    pad_id: int

    def __len__(self) -> int:
        return len(self.labels_n)

    def batch(self, indices: Sequence[int], *, length: int = 0, device: str = "cpu") -> Batch:
        """The examples at `indices`, padded to the longest of them, and to `length` tokens if that is more."""
        rows = [self.token_ids[index] for index in indices]
        input_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad_id)
        missing = max(0, length - input_ids.shape[1])
        input_ids = torch.nn.functional.pad(input_ids, (0, missing), value=self.pad_id)
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(input_ids.shape[1])[None] < lengths[:, None]).long()
        whole = {"input_ids": input_ids, "attention_mask": mask, "labels": self.labels_n[list(indices)]}
        return {name: tensor.to(device) for name, tensor in whole.items()}

    def shapes(self, *, most: int) -> list[int]:
        """What every example is padded to under privacy: a function of its own length alone. See `public_length`."""
        return [public_length(len(row), most=most) for row in self.token_ids]

    def evaluation_batches(self, size: int = 64, *, device: str = "cpu") -> Iterator[Batch]:
        """All examples once, the shortest first: batches of one length waste no padding."""
        order = sorted(range(len(self)), key=lambda index: len(self.token_ids[index]))
        for start in range(0, len(order), size):
            yield self.batch(order[start : start + size], device=device)

    def within(self, vocabulary: int) -> Examples:
        """The same examples, those with a token that is not below `vocabulary` emptied of it and ignored."""
        strange = {index for index, row in enumerate(self.token_ids) if int(row.max()) >= vocabulary}
        if not strange:
            return self
        labels_n = self.labels_n.clone()
        labels_n[sorted(strange)] = IGNORED
        return Examples(
            [row.new_zeros(1) if index in strange else row for index, row in enumerate(self.token_ids)],
            labels_n,
            self.pad_id,
        )

    def take(self, indices: Sequence[int]) -> Examples:
        """The chosen examples, sharing their tensors."""
        chosen = list(indices)
        return Examples([self.token_ids[index] for index in chosen], self.labels_n[chosen], self.pad_id)


def public_length(tokens: int, *, most: int) -> int:
    """The length from a fixed list that a text of `tokens` is padded to: 8, 16, ... 64, 80, 96, ... 128, ... `most`.

    Padding to the longest text of a batch would make everybody's computation depend on who else was drawn. At most 7
    tokens more than the text up to 64, an eighth to a quarter more from there on.

    >>> [public_length(tokens, most=500) for tokens in (1, 8, 9, 64, 65, 129, 499)]
    [8, 8, 16, 64, 80, 160, 500]
    """
    step = SHORTEST
    while tokens > 8 * step:
        step *= 2
    return max(tokens, min(most, -(-tokens // step) * step))


def invented(vocabulary: int, *, max_tokens: int, pad_id: int) -> Examples:
    """Six examples of nobody, to try a model on before it sees any data: three short ones and three long ones.

    The three of one kind have one public length and not all the same number of tokens (`COMPANIES`); the long ones are
    what the longest texts of the data will be: two of `max_tokens`, and the shortest that is padded to as much.
    """
    padded = [n for n in range(1, max_tokens + 1) if public_length(n, most=max_tokens) == max_tokens]
    lengths = [*(min(max_tokens, tokens) for tokens in (2, 5, 3)), max_tokens, max_tokens, padded[0]]
    known = torch.tensor([token for token in range(min(vocabulary, 1000)) if token != pad_id] or [0])
    rows = [known[torch.arange(length) * (2 + row) % len(known)] for row, length in enumerate(lengths)]
    return Examples(rows, torch.zeros(len(rows), dtype=torch.long), pad_id)


def digest_of(*parts: Examples) -> str:
    """The same for the same token ids and labels in the same order, on every machine."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(f"\0{len(part)}\0".encode())
        digest.update(part.labels_n.numpy().tobytes())
        for row in part.token_ids:
            digest.update(f"\0{len(row)}\0".encode() + row.numpy().tobytes())
    return digest.hexdigest()


def concatenate(parts: Sequence[Examples]) -> Examples:
    """All parts as one."""
    ids = [row for part in parts for row in part.token_ids]
    return Examples(ids, torch.cat([part.labels_n for part in parts]), parts[0].pad_id)


def tokenise(
    rows: Sequence[Row],
    labels: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_tokens: int,
    ignore_unusable: bool = False,
) -> Examples:
    """Texts to token ids, once; SettingsError on a class that is not in `labels`, and where nothing comes of any text.

    With `ignore_unusable`, such a row, or one of which the tokenizer makes no ids, or too many, stays in and has no
    loss: a site under privacy must not fail because of what one row holds.
    """
    numbers = {label: number for number, label in enumerate(labels)}
    unknown = sorted({row.label for row in rows} - numbers.keys())
    if unknown and not ignore_unusable:
        raise SettingsError(f"the label {unknown[0]!r} is not one of the run's classes: {', '.join(labels)}.")
    pad_id = tokenizer.pad_token_id
    if pad_id is None:
        raise SettingsError("the tokenizer has no padding token and no end token; batches cannot be padded.")

    def ids_of(texts: list[str]) -> list[list[int]]:
        found: list[list[int]] = tokenizer(texts, truncation=True, max_length=max_tokens)["input_ids"]
        return found

    texts = [row.text for row in rows]
    if ignore_unusable:
        encoded = _each_by_itself(ids_of, texts, max_tokens=max_tokens)
    else:
        encoded = ids_of(texts)
        _require_tokens(texts, encoded, nothing=ids_of([""])[0], tokenizer=tokenizer)
    numbered = [numbers.get(row.label, IGNORED) if ids else IGNORED for row, ids in zip(rows, encoded, strict=True)]
    if IGNORED in numbered:
        log.warning(
            "%d of %d examples are ignored: a label that the run does not have, or a text that cannot be tokenised",
            numbered.count(IGNORED),
            len(rows),
        )
    tensors = [torch.tensor(ids or [pad_id], dtype=torch.long) for ids in encoded]
    return Examples(tensors, torch.tensor(numbered, dtype=torch.long), int(pad_id))


def _require_tokens(
    texts: list[str], encoded: list[list[int]], *, nothing: list[int], tokenizer: PreTrainedTokenizerBase
) -> None:
    """What a tokenizer whose files do not fit its class makes of every text is what it makes of none."""
    if any(text.strip() for text in texts) and all(ids == nothing for ids in encoded):
        raise SettingsError(
            f"the tokenizer makes no tokens of any of {len(texts)} text(s): its files do not go with its class "
            f"({type(tokenizer).__name__}); give model.id the tokenizer that the model was trained with."
        )


def _each_by_itself(
    ids_of: Callable[[list[str]], list[list[int]]], texts: list[str], *, max_tokens: int
) -> list[list[int]]:
    """All at once if that works; otherwise text by text, with no ids for those that fail."""
    found = _ids_or_none(ids_of, texts)
    if found is None:
        found = [(_ids_or_none(ids_of, [text]) or [[]])[0] for text in texts]
    return [ids if _are_ids(ids, max_tokens) else [] for ids in found]


def _ids_or_none(ids_of: Callable[[list[str]], list[list[int]]], texts: list[str]) -> list[list[int]] | None:
    """One answer for each text, or None, whatever goes wrong: a tokenizer's own panic is no `Exception`."""
    try:
        found = list(ids_of(texts))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        log.warning("%d text(s) cannot be tokenised", len(texts), exc_info=len(texts) > 1)
        return None
    return found if len(found) == len(texts) else None


def _are_ids(ids: object, max_tokens: int) -> bool:
    """Whether these are token ids, and no more than were asked for."""
    return (
        isinstance(ids, list)
        and len(ids) <= max_tokens
        and all(type(number) is int and 0 <= number < LARGEST_ID for number in ids)
    )
