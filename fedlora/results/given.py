"""The rows of a file as they stand there, one by one: nothing is merged, dealt or left out without a word.

Training reads the same files by the same readers, and takes repeats out (`fedlora.data.rows`). Here every row has its
number, and one that cannot be used says why.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedlora.config import DataSettings
from fedlora.data.chosen_columns import columns_for, form_for
from fedlora.data.form import Columns, Form
from fedlora.data.images.cells import checked, content_of
from fedlora.data.images.decoding import ImageError
from fedlora.data.images.files import images_below, names_images, tables_in
from fedlora.data.images.folder import ENDINGS, SPLITS, every_image, images_in
from fedlora.data.packaged import is_packaged, packaged
from fedlora.data.row import Cell, Row
from fedlora.data.rows import files_of, packaged_rows, read_files
from fedlora.data.tables.reading import read_table
from fedlora.data.tables.table import Complaint
from fedlora.nearest import did_you_mean, nearest
from fedlora.results.base import Results
from fedlora.settings import SettingsError
from fedlora.tasks.registry import forms_of


@dataclass(frozen=True)
class Given:
    """One row of a source."""

    number: int
    """From 1, in the order of the source."""
    row: Row | None
    trouble: str | None = None
    """Why there is none; names no content."""
    empty: bool = False
    """Whether it is well written and only has nothing in a column."""
    file: str | None = None
    """Of an image that no table names: its path below the source."""


@dataclass(frozen=True)
class Naming:
    """What a source calls its columns: as the run's recipe says, but for what a person says."""

    data: DataSettings
    task: str

    @classmethod
    def of(cls, data: DataSettings | None, task: str, *, renamed: Mapping[str, str], form: str | None) -> Naming:
        """SettingsError for a format that the task does not read."""
        given = data or DataSettings()
        known = {column for one in forms_of(task) for column in one.columns}
        if strange := sorted(renamed.keys() - known):
            raise SettingsError(
                f"--column {strange[0]}=...: the task {task} has no such column; it has {', '.join(sorted(known))}."
            )
        if form is not None:
            form_for(form, task)
            given = given.model_copy(update={"format": form, "columns": None})
        columns = {**(given.columns or {}), **renamed}
        return cls(given.model_copy(update={"columns": columns or None}), task)

    def forms(self) -> tuple[Form, ...]:
        """Those that the source may have: the chosen one, or any that the task reads."""
        return forms_of(self.task) if self.data.format is None else (form_for(self.data.format, self.task),)

    def columns(self, form: Form, source: str) -> Columns:
        return columns_for(self.data.of_form(form), self.task, source=source)


def asked_rows(source: str, naming: Naming, results: Results, *, stand_in: str) -> list[Given]:
    """To predict on: only the columns that an answer needs are looked for; `stand_in` is every row's class."""
    if not is_packaged(source) and naming.forms()[0].images and (pictures := pictures_in(source, naming)):
        return pictures_of(pictures, Path(source).expanduser(), naming.forms()[0], stand_in)
    form, columns = fitting(source, naming, results)
    if is_packaged(source):
        return [
            replace(one, row=one.row and answerable(one.row, one.row.form, stand_in))
            for one in numbered(packaged_rows(source, columns))
        ]
    asked = tuple(column for column in form.columns if column in results.asks(form))
    part = Form(
        form.name, asked, nested=tuple(set(form.nested) & set(asked)), images=tuple(set(form.images) & set(asked))
    )
    found = numbered(
        row
        for file in read_files(source, replace(columns, form=part))
        for row in file.rows(replace(columns, form=part))
    )
    return [replace(one, row=one.row and answerable(one.row, form, stand_in)) for one in found]


def whole_rows(source: str, naming: Naming, results: Results, *, client: str | None) -> list[Given]:
    """To judge on, with whose each row is where the source says it; SettingsError where a row is malformed."""
    _, columns = fitting(source, naming, None)
    if is_packaged(source):
        return numbered(packaged_rows(source, replace(columns, client=client if packaged(source).natural else None)))
    files = read_files(source, replace(columns, client=client))
    bad = [said for file in files for said in file.malformed()]
    if bad:
        raise SettingsError("\n".join([*bad[:10], "Mend these rows, or take them out."]))
    return numbered(row for file in files for row in file.rows(replace(columns, client=client)))


def client_column(source: str, naming: Naming, *, asked: str | None) -> str | None:
    """The column that says whose a row is: the one that was asked for, or the recipe's where the source has it."""
    name = asked or naming.data.client_column
    if asked and not is_packaged(source) and not pictured(source, naming) and asked not in names_in(source):
        raise SettingsError(
            f"--client-column {asked}: {source} has no such column; it has {', '.join(names_in(source)) or 'none'}."
        )
    if is_packaged(source):
        return name if asked or packaged(source).natural else None
    if pictured(source, naming):
        return name if asked or has_client_folders(Path(source).expanduser()) else None
    return name if asked or name in names_in(source) else None


def has_client_folders(folder: Path) -> bool:
    """Whether every image lies in a client's folder."""
    clients = {one.client for one in images_in(folder)} if folder.is_dir() else set()
    return bool(clients) and None not in clients and not clients <= SPLITS


def fitting(source: str, naming: Naming, results: Results | None) -> tuple[Form, Columns]:
    """The first form all of whose columns the source has; SettingsError with the way out where none fits."""
    forms = naming.forms()
    if is_packaged(source):
        own = next((form for form in forms if form.name == packaged(source).form.name), forms[0])
        return own, naming.columns(own, source)
    if pictured(source, naming):
        return forms[0], naming.columns(forms[0], source)
    names = names_in(source)
    for form in forms:
        columns = naming.columns(form, source)
        if not lacking(form, columns, names, results):
            return form, columns
    others = [form for form in forms_of(naming.task) if form not in forms]
    fit = [form.name for form in others if not lacking(form, Columns(form), names, results)]
    column, name = lacking(forms[0], naming.columns(forms[0], source), names, results)[0]
    near, spare = nearest(name, names), [one for one in names if one not in naming.columns(forms[0], source).names]
    meant = near or (spare[0] if len(spare) == 1 else "NAME")
    raise SettingsError(
        f"{source} has no column {name!r}; "
        + (f"did you mean {near!r}? It has " if near else "it has ")
        + f"{', '.join(names) or 'none'}. Say what it is called with --column {column}={meant}"
        + (f", or that its rows are of another format with --format {fit[0]}." if fit else ".")
    )


def lacking(form: Form, columns: Columns, names: Collection[str], results: Results | None) -> list[tuple[str, str]]:
    """The form's columns that a source lacks, with what it would call them; without `results`, of all columns."""
    own = dict(zip(form.columns, columns.names, strict=True))
    asked = form.columns if results is None else results.asks(form)
    return [(column, own[column]) for column in asked if own[column] not in names]


def names_in(source: str) -> tuple[str, ...]:
    """The columns of a source's first file."""
    return read_table(files_of(source)[0], []).names


def numbered(rows: Iterable[Row | Complaint]) -> list[Given]:
    return [
        Given(number, None, row.what, empty=not row.malformed) if isinstance(row, Complaint) else Given(number, row)
        for number, row in enumerate(rows, start=1)
    ]


def answerable(row: Row, form: Form, stand_in: str) -> Row:
    """With every column of the form and the stand-in as its class: the row's own may not have been read, or be none of
    the run's."""
    return row_of(dict(zip(row.form.columns, row.cells, strict=True)), form, stand_in, client=row.client)


def row_of(cells: Mapping[str, Cell], form: Form, stand_in: str, *, client: str = "") -> Row:
    """A row of the form: what is not among the cells is empty, and its class is the stand-in."""
    own = {**cells, **({form.label: stand_in} if form.label is not None else {})}
    return Row(form, tuple(own.get(column, "") for column in form.columns), client)


def pictured(source: str, naming: Naming) -> bool:
    """Whether the rows are images that no table names."""
    form = naming.forms()[0]
    return bool(form.images and images_below(source, naming.columns(form, source)))


def pictures_in(source: str, naming: Naming) -> list[Path]:
    """An image, or those of a folder whose images no table names, at whatever depth; none where the source is something
    else."""
    path = Path(source).expanduser()
    if path.is_file():
        return [path] if path.suffix.lower() in ENDINGS else []
    if not path.exists():
        raise SettingsError(f"there is no file or folder {source}.{did_you_mean(path)}")
    columns = naming.columns(naming.forms()[0], source)
    if not path.is_dir() or any(names_images(table, columns) for table in tables_in(path)):
        return []
    return [found.path for found in every_image(path)]


def pictures_of(paths: Sequence[Path], source: Path, form: Form, stand_in: str) -> list[Given]:
    found = []
    for number, path in enumerate(paths, start=1):
        name = str(path.relative_to(source)) if path != source else path.name
        try:
            content = checked(content_of(path))
        except ImageError as error:
            found.append(Given(number, None, f"{error.what}", file=name))
            continue
        row = row_of(dict.fromkeys(form.images, content), form, stand_in)
        found.append(Given(number, row, file=name))
    return found


def left_out(given: Collection[Given]) -> dict[str, int]:
    """Rows without anything to use, by the reason."""
    found: dict[str, int] = {}
    for one in given:
        if one.trouble is not None:
            found[one.trouble] = found.get(one.trouble, 0) + 1
    return found
