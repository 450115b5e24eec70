"""How long texts are in tokens, and how many of them a limit cuts; a tokenizer is all that is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Lengths:
    """Of some texts, in tokens with those that the tokenizer puts around them."""

    texts: int
    longest: int
    cut: int
    """Texts that are longer than the limit."""
    limit: int

    def __str__(self) -> str:
        """For people.

        >>> print(Lengths(1000, 80, 23, 64)), print(Lengths(10, 30, 0, 64))
        the longest has 80 tokens; 23 of 1000 (2 %) are cut at model.max_tokens=64
        the longest has 30 tokens; none is cut at model.max_tokens=64
        (None, None)
        """
        share = f"{self.cut} of {self.texts} ({percent(self.cut, self.texts)}) are" if self.cut else "none is"
        return f"the longest has {self.longest} tokens; {share} cut at model.max_tokens={self.limit}"


def percent(part: int, whole: int) -> str:
    return f"{100 * part / max(1, whole):.0f} %"


def lengths_of(
    texts: Sequence[str], cut_lengths: Sequence[int], tokenizer: PreTrainedTokenizerBase, *, limit: int
) -> Lengths:
    """From what tokenising with the limit gave; only texts that reach it are tokenised once more, whole."""
    reached = [text for text, length in zip(texts, cut_lengths, strict=True) if length >= limit]
    whole = [len(ids) for ids in tokenizer(reached, verbose=False)["input_ids"]] if reached else []
    longest = max([*cut_lengths, *whole], default=0)
    return Lengths(len(texts), longest, sum(length > limit for length in whole), limit)
