"""Entities are counted as seqeval counts them, and counts of parts add up to the whole's."""

from __future__ import annotations

import random
from functools import reduce
from operator import add

import pytest
from seqeval.metrics import classification_report, f1_score, precision_score, recall_score

from fedlora.settings import SettingsError
from fedlora.tasks.tags.scheme import codes_of, require_tags, types_in
from fedlora.tasks.tags.spans import Counts, counted

LABELS = ("B-A", "B-B", "B-C", "I-A", "I-B", "I-C", "O")
CODES = codes_of(LABELS)
Tags = list[list[str]]


def drawn(seed: int, *, sentences: int = 40) -> tuple[Tags, Tags]:
    """What is found and what is there: any tags in any order, mostly alike, so that some entities are right."""
    draw = random.Random(seed)
    there = [[draw.choice(LABELS) for _ in range(draw.randint(1, 12))] for _ in range(sentences)]
    found = [[tag if draw.random() < 0.8 else draw.choice(LABELS) for tag in tags] for tags in there]
    return found, there


def counts(found: Tags, there: Tags) -> dict[int, Counts]:
    number = dict(zip(LABELS, CODES, strict=True))
    return counted(*([[number[tag] for tag in tags] for tags in side] for side in (found, there)))


@pytest.mark.parametrize("seed", range(20))
def test_every_type_and_all_together_are_what_seqeval_says(seed):
    found, there = drawn(seed)
    own = counts(found, there)
    report = classification_report(there, found, output_dict=True, zero_division=0)
    for number, name in enumerate(types_in(LABELS)):
        of_it = own.get(number, Counts())
        assert of_it.there == report[name]["support"]
        assert (of_it.precision.value, of_it.recall.value, of_it.f1.value) == pytest.approx(
            (report[name]["precision"], report[name]["recall"], report[name]["f1-score"])
        )
    whole = reduce(add, own.values())
    expected = precision_score(there, found), recall_score(there, found), f1_score(there, found)
    assert (whole.precision.value, whole.recall.value, whole.f1.value) == pytest.approx(expected)


def test_counts_of_clients_add_up_to_those_of_all_their_sentences_and_their_means_do_not():
    found, there = drawn(0, sentences=30)
    parts = [slice(0, 3), slice(3, 4), slice(4, 30)]
    clients = [reduce(add, counts(found[part], there[part]).values()) for part in parts]
    whole = reduce(add, counts(found, there).values())
    assert reduce(add, clients) == whole
    assert reduce(add, [client.f1 for client in clients]).value == whole.f1.value == f1_score(there, found)
    mean = sum(client.f1.value * (part.stop - part.start) for client, part in zip(clients, parts, strict=True)) / 30
    assert abs(mean - whole.f1.value) > 0.001


def test_where_nothing_is_found_and_nothing_is_there_the_figures_are_zero():
    nothing = Counts()
    assert (nothing.precision.value, nothing.recall.value, nothing.f1.value) == (0, 0, 0)
    assert Counts(0, 0, 3).precision.value == 0
    assert (Counts(2, 3, 4).precision + nothing.precision).value == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("PLACE", r"'PLACE' is no tag, which are O, B-TYPE and I-TYPE\. Write the first word .* as B-PLACE"),
        ("3", r"'3' is no tag, .* what the tags' numbers mean: data\.tag_names"),
        ("E-PLACE", r"'E-PLACE' is no tag, .* write S- and U- as B-, E- and L- as I-"),
        ("B-", r"'B-' is no tag"),
    ],
)
def test_a_class_that_is_no_tag_is_refused_with_what_it_may_have_been_meant_for(label, said):
    with pytest.raises(SettingsError, match=said):
        require_tags(("O", label))
