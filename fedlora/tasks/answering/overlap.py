"""How far an answer is the one that was asked for: exact match and ROUGE-L (Lin, 2004), by one reference.

    ROUGE-L = 2 P R / (P + R), P and R the longest common subsequence of words by the words of either text

As rouge-score has it without stemming, for English. Written here because that package knows the letters a to z alone
(`när` is `n` and `r` there), was last released in 2022, and brings nltk and absl for the sake of one table.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

WORD = re.compile(r"[^\W_]+")


def exact_match(answer: str, reference: str) -> bool:
    """Whether they are the same but for blanks.

    >>> exact_match(" Up to 10 m². ", "Up  to 10 m²."), exact_match("up to 10 m².", "Up to 10 m².")
    (True, False)
    """
    return answer.split() == reference.split()


def rouge_l(answer: str, reference: str) -> float:
    """From 0 to 1; 0 where either has no word.

    >>> rouge_l("the cat sat", "The cat, it sat."), rouge_l("", "")
    (0.8571428571428571, 0.0)
    """
    found, wanted = words_of(answer), words_of(reference)
    common = longest_common(found, wanted)
    return 2 * common / (len(found) + len(wanted)) if common else 0.0


def words_of(text: str) -> list[str]:
    """Letters and digits of any script, in small letters."""
    return WORD.findall(text.lower())


def longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many words the longest common subsequence has."""
    row = [0] * (len(other) + 1)
    for word in one:
        before = 0
        for place, there in enumerate(other, start=1):
            before, row[place] = row[place], before + 1 if word == there else max(row[place], row[place - 1])
    return row[-1]
