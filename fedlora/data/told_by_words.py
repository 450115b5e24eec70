"""How well the words of a text tell what another column holds: what a text is about is told, what came with it is not.

Naive Bayes learns on one half of the texts and is tried on the other: the multinomial model of McCallum and Nigam, "A
Comparison of Event Models for Naive Bayes Text Classification" (AAAI-98 workshop on text categorization), each word
once a text. A hash of the text says which half it is in, so the same file always says the same.

Indices: t text, w word, v value.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedlora.data.membership import key_of, place
from fedlora.data.tables.reading import read_table
from fedlora.data.tables.table import Complaint

MOST_TEXTS, MOST_WORDS = 4000, 64
"""What is looked at of a file and of a text: a second for each column, whatever the file's length."""
CHARS_A_WORD = 8
"""Longer ones on average are those of a script that writes no blanks; there neighbouring characters stand for words."""
CLEARLY = 3.0
"""Standard errors above guessing: several columns are tried, and the best of them by chance must not pass."""


@dataclass(frozen=True)
class Told:
    """Of the texts that were tried, the share whose value was told."""

    right: float
    guessing: float
    """By always saying the value that most texts have."""
    tried: int

    @property
    def gain(self) -> float:
        """Of what guessing gets wrong, the share that words get right, 0 to 1; 0 where it may be chance."""
        error = (self.guessing * (1 - self.guessing) / max(1, self.tried)) ** 0.5
        above = self.right - self.guessing
        return above / (1 - self.guessing) if above > CLEARLY * error else 0.0


def told_in(paths: Sequence[Path], text: str, column: str) -> Told:
    """How well the texts of these files tell that column, by at most MOST_TEXTS of them."""
    values: dict[str, str] = {}
    for path in paths:
        for row in read_table(path, [text, column]).rows:
            if not isinstance(row, Complaint):
                values.setdefault(str(row[0]), str(row[1]))
    return told(values)


def told(values: Mapping[str, str]) -> Told:
    """How well texts tell their values."""
    key = key_of(0)
    texts = sorted(values, key=lambda text: (place(text, key, "told"), text))[:MOST_TEXTS]
    learned, tried = texts[::2], texts[1::2]
    if not tried:
        return Told(0.0, 0.0, 0)
    number = {value: index for index, value in enumerate(sorted({values[text] for text in learned}))}
    known = {word: index for index, word in enumerate(sorted(set().union(*map(words_of, learned))))}
    counts_wv, counts_v = (
        np.ones((len(known), len(number))),
        np.zeros(len(number)),
    )  # one of each word: none is impossible
    for text in learned:
        counts_v[number[values[text]]] += 1
        counts_wv[[known[word] for word in words_of(text)], number[values[text]]] += 1
    scores_wv, scores_v = np.log(counts_wv / counts_wv.sum(axis=0)), np.log(counts_v)
    right = sum(
        int((scores_v + scores_wv[[known[word] for word in words_of(text) if word in known]].sum(axis=0)).argmax())
        == number.get(values[text])
        for text in tried
    )
    [(_, most)] = Counter(values[text] for text in tried).most_common(1)
    return Told(right / len(tried), most / len(tried), len(tried))


def words_of(text: str) -> frozenset[str]:
    """The text's first different words, case apart.

    >>> sorted(words_of("My bag, my BAG!")), sorted(words_of("航班又晚点了航班又晚点了"))[:2]
    (['bag', 'my'], ['了航', '又晚'])
    """
    words = re.findall(r"\w+", text.casefold())
    if sum(map(len, words)) > CHARS_A_WORD * len(words):
        words = [word[place : place + 2] for word in words for place in range(max(1, len(word) - 1))]
    return frozenset(list(dict.fromkeys(words))[:MOST_WORDS])
