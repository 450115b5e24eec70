"""Words and tags of a row to token ids with labels: a word's tag is at its first piece, and no other piece has one.

The words are read as one text with a blank between them. That suits every fast tokenizer, whether it joins a word's
pieces with `##` or begins a word with its blank. A word of which the tokenizer makes nothing, or that is cut away, has
no label: it is neither learnt nor counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from transformers import PreTrainedTokenizerBase

from fedlora.tasks.base import IGNORED, Item


def item_of_words(
    words: Sequence[str], numbers: Sequence[int], tokenizer: PreTrainedTokenizerBase, *, longest: int
) -> dict[str, torch.Tensor]:
    """input_ids (t,), at most `longest`, and labels (t,): the word's number at its first piece, IGNORED elsewhere."""
    encoded = tokenizer(" ".join(words), return_offsets_mapping=True, truncation=True, max_length=longest)
    ids = encoded["input_ids"]
    labels = [IGNORED] * len(ids)
    for word, piece in enumerate(first_pieces(words, encoded["offset_mapping"])):
        if piece is not None:
            labels[piece] = numbers[word]
    return {"input_ids": torch.tensor(ids or [0]), "labels": torch.tensor(labels or [IGNORED])}


def first_pieces(words: Sequence[str], offsets: Sequence[tuple[int, int]]) -> list[int | None]:
    """Of every word the first token that reads of it, by the tokens' stretches of the text; a token is one word's.

    >>> first_pieces(["no", "wifi"], [(0, 0), (0, 2), (2, 5), (5, 7), (0, 0)])
    [1, 2]
    """
    found: list[int | None] = []
    start = piece = 0
    for word in words:
        end = start + len(word)
        while piece < len(offsets) and (offsets[piece][1] <= start or offsets[piece][0] == offsets[piece][1]):
            piece += 1
        fits = piece < len(offsets) and offsets[piece][0] < end
        found.append(piece if fits else None)
        piece += fits
        start = end + 1
    return found


def numbers_of_tags(tags: Sequence[str], numbers: Mapping[str, int]) -> list[int]:
    """Their classes; ValueError, without content, for a tag that is none of the run's."""
    if not numbers.keys() >= set(tags):
        raise ValueError("a tag is not one of the run's classes")
    return [numbers[tag] for tag in tags]


def nothing(codes: torch.Tensor) -> Item:
    """What stands in the place of a row of which nothing can be made."""
    return {"input_ids": torch.zeros(1, dtype=torch.long), "labels": torch.tensor([IGNORED]), "codes": codes}
