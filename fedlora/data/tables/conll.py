"""Files of the CoNLL shared tasks: a word and its tag on a line, an empty line behind each sentence.

    Lufthansa NNP B-NP B-ORG        the first field is the word, the last its tag; what stands between is left out
    flies VBZ B-VP O                fields are separated by tabs where a line has one, otherwise by blanks

A line that begins with -DOCSTART- or `# ` is no word. The columns are called `tokens` and `tags`, and a cell is a list
in JSON, as it would be in a table. A sentence is a row: a line of it without a tag costs that sentence alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from fedlora.data.images.cells import NO_IMAGES, ImageColumns
from fedlora.data.tables.cells import json_of
from fedlora.data.tables.delimited import open_text
from fedlora.data.tables.table import Cells, Complaint, Table, whole_or_not

NAMES = ("tokens", "tags")
NO_WORDS = ("-DOCSTART-", "# ")


def conll_rows(
    path: Path, columns: Sequence[str], nested: Collection[str] = (), images: ImageColumns = NO_IMAGES
) -> Table:
    """The file's table; `absent` are all columns but those two."""
    absent = tuple(column for column in columns if column not in NAMES)
    with open_text(path) as file:
        rows = [] if absent else [_row(line, words, columns) for line, words in _sentences(file)]
    return Table(NAMES, rows, absent)


def _sentences(lines: Iterator[str]) -> Iterator[tuple[int, list[list[str]]]]:
    """Every sentence's first line, and the fields of each of its lines."""
    first, words = 0, list[list[str]]()
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith(NO_WORDS):
            if words:
                yield first, words
            words = []
            continue
        first = first if words else number
        words.append([field.strip() for field in text.split("\t")] if "\t" in text else text.split())
    if words:
        yield first, words


def _row(line: int, words: list[list[str]], columns: Sequence[str]) -> Cells | Complaint:
    for place, fields in enumerate(words):
        if len(fields) < 2 or not fields[0] or not fields[-1]:
            return Complaint(line + place, "no tag behind the word", "write the word, a blank, and its tag")
    cells = {"tokens": [fields[0] for fields in words], "tags": [fields[-1] for fields in words]}
    return whole_or_not(line, tuple(json_of(cells[column]) for column in columns), columns)
