"""A tag for every word: the likeliest at its first piece. Entities are judged by type, each figure with its error.

An entity's figures are ratios of sums over rows (`fedlora.tasks.tags.spans`); a row is what another file would have had
others of, so that the error of one is that of such a ratio (`fedlora.results.judging.figures`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fedlora.data.examples import Examples, has_loss
from fedlora.data.form import Form
from fedlora.data.row import Row
from fedlora.models.base import autocast
from fedlora.results.base import Answer, Judged, Seen, chunks
from fedlora.results.judging.figures import figures
from fedlora.results.opened import AT_ONCE, Opened
from fedlora.settings import SettingsError
from fedlora.tasks.base import IGNORED, Batch, Item, Mean
from fedlora.tasks.tags.scheme import codes_of, types_in
from fedlora.tasks.tags.spans import Counts
from fedlora.tasks.tags.words import item_of_words, nothing
from fedlora.tasks.token_classification import TokenClassification, entities_of, logits_of

TOGETHER = 8 * AT_ONCE
"""Rows that are sorted by length, so that batches of them waste no padding."""


class OfTags:
    """Of the task `token-classification`."""

    def asks(self, form: Form) -> tuple[str, ...]:
        return tuple(column for column in form.columns if column != form.label)

    def answers(self, opened: Opened, rows: Sequence[Row], *, most_tokens: int) -> Iterator[Answer]:
        """tokens, the row's words, and tags, one for each: None for a word that the model does not read."""
        for chunk in chunks(rows, TOGETHER):
            yield from answers_of(opened, chunk)

    def judge(self, opened: Opened, rows: Sequence[Row], *, seen: Seen) -> Judged:
        each: list[Mapping[str, Mean] | None] = []
        counts: list[dict[int, Counts]] = []
        for chunk in chunks(rows, TOGETHER):
            for one in judged_rows(opened, opened.examples(list(chunk), each=False)):
                each.append(None if one is None else one[0])
                if one is not None:
                    counts.append(one[1])
            seen(len(chunk))
        return Judged(each, {"entities": by_type(counts, types_in(opened.labels))} if counts else {})


def answers_of(opened: Opened, rows: Sequence[Row]) -> list[Answer]:
    words = [words_or_none(row) for row in rows]
    items = [numbered(opened, own) for own in words]
    examples = Examples(items, opened.task, opened.base.padding).usable_by(opened.model)
    found: list[Answer] = [{"error": "its tokens are no list of words that the model reads"} for _ in rows]
    for place, logits_tc, _ in with_logits(opened, examples):
        labels_t, likeliest_t = examples.items[place]["labels"], logits_tc.argmax(-1)
        own = words[place]
        tags: list[str | None] = [None] * len(own)
        for piece in (labels_t != IGNORED).nonzero().flatten().tolist():
            tags[int(labels_t[piece])] = opened.labels[int(likeliest_t[piece])]
        found[place] = {"tokens": list(own), "tags": tags}
    return found


def words_or_none(row: Row) -> tuple[str, ...]:
    """None of a row that has no words."""
    try:
        return row.words()
    except ValueError:
        return ()


def numbered(opened: Opened, words: Sequence[str]) -> Item:
    """The item of a row: its words' own numbers stand where those of their tags would."""
    codes = torch.tensor(codes_of(opened.labels))
    if not words:
        return nothing(codes)
    made = item_of_words(words, range(len(words)), opened.base.processor, longest=opened.on.max_tokens)
    return {**made, "codes": codes}


def judged_rows(opened: Opened, examples: Examples) -> list[tuple[Mapping[str, Mean], dict[int, Counts]] | None]:
    """Every row's figures and entities by type; None of one that has nothing to measure."""
    task = task_in(opened)
    of_each: list[tuple[Mapping[str, Mean], dict[int, Counts]] | None] = [None] * len(examples)
    for place, logits_tc, batch in with_logits(opened, examples):
        logits_btc = logits_tc.unsqueeze(0)
        of_each[place] = task.measured(logits_btc, batch), entities_of(logits_btc.argmax(-1), batch)
    return of_each


@torch.inference_mode()
def with_logits(opened: Opened, examples: Examples) -> Iterator[tuple[int, Tensor, Batch]]:
    """Of every row that has words: its place, what the model makes of its tokens, and it alone as a batch."""
    lengths = examples.lengths
    order = sorted((place for place, item in enumerate(examples.items) if has_loss(item)), key=lengths.__getitem__)
    for start in range(0, len(order), AT_ONCE):
        places = order[start : start + AT_ONCE]
        with autocast(opened.on):
            logits_btc = logits_of(opened.model, examples.batch(places, device=opened.on.device)).cpu()
        for place, logits_tc in zip(places, logits_btc, strict=True):
            yield place, logits_tc[: lengths[place]], examples.batch([place])


def task_in(opened: Opened) -> TokenClassification:
    if not isinstance(opened.task, TokenClassification):
        raise SettingsError(f"the task {opened.on.task} gives words no tags.")
    return opened.task


def by_type(counts: Sequence[Mapping[int, Counts]], types: Sequence[str]) -> dict[str, Any]:
    """As JSON: of every type its figures, and how many of its entities are there and were found."""
    found = {}
    for number, name in enumerate(types):
        own = [one.get(number, Counts()) for one in counts]
        each = [{"precision": one.precision, "recall": one.recall, "f1": one.f1} for one in own]
        whole = sum(own, Counts())
        of_type = {key: figure.as_json() for key, figure in figures(each).items()}
        found[name] = {**of_type, "there": whole.there, "found": whole.found, "right": whole.right}
    return found
