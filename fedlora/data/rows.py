"""Rows, from local files or a packaged source. Nothing is fetched, and no copy is left behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedlora.data.form import Columns
from fedlora.data.images.files import image_tables, images_below
from fedlora.data.one_per_text import Counts, one_per_text
from fedlora.data.packaged import is_packaged, packaged, source_names
from fedlora.data.row import Row
from fedlora.data.tables.reading import READERS, read_table, refuse_ending
from fedlora.data.tables.table import Complaint, Table
from fedlora.nearest import did_you_mean, nearest
from fedlora.settings import SettingsError


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
    return whole(source, read_files(source, columns), columns, labels=labels)


def whole(source: str, files: Sequence[File], columns: Columns, *, labels: Collection[str] | None = None) -> Read:
    """`read_whole` of tables that are in memory."""
    for file in files:
        require_columns(file.table.absent, columns, file)
    read = _read(source, files, columns, labels)
    if read.malformed:
        more = read.malformed_count - len(read.malformed)
        lines = [*read.malformed, *([f"and {more} more."] if more else []), _way_out(read.malformed)]
        raise SettingsError("\n".join(lines))
    return read


def _read(source: str, files: Sequence[File], columns: Columns, labels: Collection[str] | None) -> Read:
    found: list[Row | Complaint] = list(packaged_rows(source, columns)) if is_packaged(source) else []
    found += [row for file in files for row in file.rows(columns)]
    known = frozenset(labels or ())
    usable = [row for row in found if isinstance(row, Row) and (labels is None or known.issuperset(row.classes))]
    unusable = Counter(row.what for row in found if isinstance(row, Complaint))
    other = sum(isinstance(row, Row) for row in found) - len(usable)
    if other:
        unusable["a class that is not declared"] = other
    rows, repeated, conflicting = one_per_text(usable, by_client=columns.client is not None)
    counts = Counts(len(found), len(rows), repeated, conflicting, tuple(sorted(unusable.items())))
    malformed = [said for file in files for said in file.malformed()]
    return Read(tuple(rows), counts, tuple(malformed[:MOST_SHOWN]), len(malformed))


def packaged_rows(source: str, columns: Columns) -> Iterator[Row]:
    """The rows of a packaged source; SettingsError where they are of another form, or have no clients and need them."""
    found, form = packaged(source), columns.form
    if columns.client is not None and not found.natural:
        raise SettingsError(
            f"data.source={source!r} says of no row whose it is; give data.partition=dirichlet (or iid) and "
            "data.clients=6."
        )
    if found.form != form:
        raise SettingsError(
            f"data.source={source!r} has rows of the format {found.form.name} ({', '.join(found.form.columns)}), "
            f"and the task reads {form.name} ({', '.join(form.columns)}); choose another source, model.task or "
            "data.format."
        )
    return found.rows()


@dataclass(frozen=True)
class File:
    """A file's table, and whose rows they are where no column says so. An image that is a row by itself is one, too."""

    path: Path
    table: Table
    client: str | None = None
    lines: bool = True
    """Whether a row is known by its line; otherwise by its number."""

    def rows(self, columns: Columns) -> Iterator[Row | Complaint]:
        """The form's cells, and the client: the column's, or the file's."""
        for row in self.table.rows:
            if isinstance(row, Complaint):
                yield row
            else:
                wide = len(columns.form.columns)
                client = self.client or ("" if columns.client is None else str(row[wide]))
                yield columns.nothing_in(row[:wide]) or Row(columns.form, columns.named_tags(row[:wide]), client)

    def malformed(self) -> list[str]:
        """`file:line: what; the way out` for every malformed row."""
        found = [row for row in self.table.rows if isinstance(row, Complaint) and row.malformed]
        return [
            f"{self._place(row.line)}: {row.what}" + (f"; {row.remedy}." if row.remedy else ".")
            for row in (*self.table.mixed, *found)
        ]

    def _place(self, line: int) -> str:
        suffix = self.path.suffix.lower()
        if suffix not in READERS and self.lines:  # an image, which is a row by itself
            return str(self.path)
        return f"{self.path} row {line}" if suffix == ".parquet" or not self.lines else f"{self.path}:{line}"


def read_files(source: str, columns: Columns) -> list[File]:
    """The tables of a local file, or of every file in a folder; none for a packaged corpus.

    A folder of files none of which has the column of clients: each file is one client, by its name without the ending.
    Images that no table names are clients' where folders say so (`fedlora.data.images.folder`).
    """
    if is_packaged(source):
        return []
    pictures = image_tables(source, columns) if columns.form.images else None
    if pictures is not None:
        return [File(*found) for found in pictures]
    paths = files_of(source)
    named = list(columns.named().values())
    files = [File(path, read_table(path, named, columns.nested, columns.images)) for path in paths]
    lack_it = all(file.table.absent == (columns.client,) for file in files)
    if columns.client_by_file and lack_it and Path(source).expanduser().is_dir():
        return [
            File(path, read_table(path, columns.names, columns.nested, columns.images), client=name)
            for name, path in by_stem(paths).items()
        ]
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


def files_behind(source: str, columns: Columns) -> list[Path]:
    """Every file that the rows are read from; none of a packaged source. Of a table with paths, the table alone."""
    if is_packaged(source):
        return []
    return (images_below(source, columns) if columns.form.images else None) or files_of(source)


def did_you_mean_one(source: str) -> str:
    """The same as `did_you_mean`, of names."""
    near = nearest(source, source_names())
    return f" Did you mean `{near}`?" if near else ""


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
            f"{', '.join(f'`{name}`' for name in source_names())}, a local {', '.join(READERS)} file, or a folder of "
            f"such files (of images: of class folders).{did_you_mean(path) or did_you_mean_one(source)}"
        )
    return readable
