"""What is in the data, in a dozen lines, said before a model is loaded: nobody waits to learn it from a result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fedlora.data.classes import alike
from fedlora.data.lengths import Lengths, Sides, percent
from fedlora.data.one_per_text import Counts
from fedlora.data.row import Row
from fedlora.tasks.guessing import standard_error
from fedlora.tasks.metric import SHARE, Metric

MOST_LISTED = 12
NAME_CHARS = 40
LARGE_SHARE = 0.2
FEW_TEXTS = 50
"""A test set below it tells little: a share of a half would be ± 0.07 and more."""


@dataclass(frozen=True)
class DataSummary:
    """What a source holds, before it is spread over clients."""

    source: str
    counts: Counts
    classes: Mapping[str, int]
    """Rows (or words) of every class; none of one that is declared and not there."""
    lengths: Lengths | Sides
    noun: str
    """What people call an example."""
    disputed: int
    """Texts that several clients have, with several classes: each trains on its own."""


def summary_of_data(
    source: str, rows: Sequence[Row], labels: Sequence[str], counts: Counts, lengths: Lengths | Sides
) -> DataSummary:
    by_text: dict[str, set[str | None]] = {}
    for row in rows:
        by_text.setdefault(row.key, set()).add(row.label)
    disputed = sum(len(classes) > 1 for classes in by_text.values())
    seen = Counter(name for row in rows for name in row.classes)
    noun = next((row.form.noun for row in rows), "text")
    return DataSummary(source, counts, {label: seen[label] for label in labels}, lengths, noun, disputed)


Sizes = Mapping[str, tuple[int, int]]
"""Examples to train and to test on, by client."""


def lines(found: DataSummary, sizes: Sizes, *, held_out: int, batch_size: int, metric: Metric) -> list[str]:
    """For a person at a terminal; names are made printable. `metric`: what the run is to be judged by."""
    said = [
        ("data", f"{found.source}: {found.counts}"),
        *([("classes", classes_said(found.classes))] if found.classes else []),
        ("clients", clients_said(sizes)),
        ("test set", f"{held_out} {found.noun}s that no client has"),
        ("split", split_said(found, sizes, held_out=held_out)),
        (f"{found.noun}s", str(found.lengths)),
        *(
            ("careful", doubt)
            for doubt in doubts(found, sizes, held_out=held_out, batch_size=batch_size, metric=metric)
        ),
    ]
    return [f"{what:<9} {text}" for what, text in said]


def doubts(found: DataSummary, sizes: Sizes, *, held_out: int, batch_size: int, metric: Metric) -> Iterator[str]:
    """What is allowed, and is seldom meant."""
    for group in alike(found.classes):
        yield f"the classes {' and '.join(map(repr, group))} differ only in case or spaces"
    for label in [label for label, count in found.classes.items() if not count]:
        yield f"the class {printable(label)} is declared, and no row has it"
    if found.counts.unusable_share > LARGE_SHARE:
        yield f"{found.counts.unusable_share:.0%} of the rows cannot be used"
    if found.counts.conflicting:
        yield f"{found.counts.conflicting} rows are left out because their {found.noun} comes with several classes"
    if found.disputed:
        yield f"{found.disputed} {found.noun}s are at several clients with different classes; each trains on its own"
    if held_out < FEW_TEXTS:
        yield f"the test set is small: {chance(metric, held_out, found.noun)}; raise data.held_out"
    small = [name for name, (train, _) in sizes.items() if train < batch_size]
    if small:
        listed = ", ".join(map(printable, small[:MOST_LISTED])) + (", ..." if len(small) > MOST_LISTED else "")
        yield f"{len(small)} clients have fewer examples than one batch (train.batch_size={batch_size}): {listed}"
    if found.lengths.unlearnt:
        yield (
            f"{found.lengths.unlearnt} of {found.lengths.texts} texts have nothing left to learn: all of their answer "
            "is cut; raise model.max_tokens"
        )
    if found.lengths.cut > LARGE_SHARE * found.lengths.texts:
        yield f"{percent(found.lengths.cut, found.lengths.texts)} of the texts are cut; raise model.max_tokens"


def chance(metric: Metric, texts: int, noun: str) -> str:
    """What chance alone does to a share of so many texts; of another figure only how many they are."""
    if metric.unit != SHARE:
        return f"{texts} {noun}s"
    article = "an" if metric.words[0] in "aeiou" else "a"
    return f"{article} {metric.words} on {texts} {noun}s is ± {standard_error(0.5, max(1, texts)):.2f}"


def classes_said(classes: Mapping[str, int]) -> str:
    whole = sum(classes.values())
    shares = [f"{printable(label)} {count} ({percent(count, whole)})" for label, count in classes.items()]
    if len(classes) <= MOST_LISTED:
        return ", ".join(shares)
    order = sorted(classes, key=lambda label: classes[label])
    least, most = order[0], order[-1]
    return (
        f"{len(classes)}, from {printable(least)} with {classes[least]} rows to {printable(most)} with {classes[most]}"
    )


def clients_said(sizes: Sizes) -> str:
    if len(sizes) <= MOST_LISTED:
        listed = ", ".join(f"{printable(name)} {train} + {test}" for name, (train, test) in sizes.items())
        return f"{len(sizes)}, to train + to test: {listed}"
    order = sorted(sizes, key=lambda name: sum(sizes[name]))
    least, middle, most = (f"{printable(name)} {sizes[name][0]} + {sizes[name][1]}"
                           for name in (order[0], order[len(order) // 2], order[-1]))  # fmt: skip
    return f"{len(sizes)}, to train + to test: from {least} to {most}; the middle one is {middle}"


def split_said(found: DataSummary, sizes: Sizes, *, held_out: int) -> str:
    """How many of the rows train, and where the others are, with the settings that decide it."""
    train, test = (sum(parts) for parts in zip(*sizes.values(), strict=True))
    rows = found.counts.kept
    unused = rows - train - test - held_out
    more = f", {unused} are used nowhere" if unused else ""
    return (
        f"of {rows} rows {train} train; {test} test at their clients (data.test_fraction), {held_out} are "
        f"the shared test set (data.held_out){more}"
    )


def printable(name: str, *, most: int = NAME_CHARS) -> str:
    """As it is, where a terminal shows it as it is; at most `most` characters."""
    shown = name if name.isprintable() and name == name.strip() else repr(name)
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."
