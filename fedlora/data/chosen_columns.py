"""The columns that a section of settings asks a source for: the format among the task's, and the source's own names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from fedlora.data.form import SHORT, Columns, Form
from fedlora.data.packaged import is_packaged, packaged
from fedlora.nearest import nearest
from fedlora.settings import SettingsError
from fedlora.tasks.registry import forms_of


class SourceSettings(Protocol):
    """What every section that names a source has."""

    @property
    def text(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def format(self) -> str | None: ...
    @property
    def columns(self) -> Mapping[str, str] | None: ...
    @property
    def tag_names(self) -> tuple[str, ...] | None: ...


def columns_for(
    chosen: SourceSettings,
    task: str,
    *,
    source: str | None = None,
    client: str | None = None,
    client_by_file: bool = False,
) -> Columns:
    """SettingsError for a format that the task does not read, or a column that the format does not have.

    A packaged `source` has a format of its own, which is taken where the task reads it and nobody chooses another.
    """
    own_form = packaged(source).form.name if source is not None and is_packaged(source) else None
    reads = [form.name for form in forms_of(task)]
    form = form_for(chosen.format or (own_form if own_form in reads else None), task)
    own = {column: getattr(chosen, column) for column in SHORT if column in form.columns} | dict(chosen.columns or {})
    for column in chosen.columns or {}:
        if column not in form.columns:
            raise SettingsError(
                unknown(f"data.columns.{column}", "column", f"format {form.name}", form.columns, column)
            )
    renamed = tuple((column, own[column]) for column in form.columns if own.get(column, column) != column)
    return Columns(form, renamed, client, client_by_file, chosen.tag_names or ())


def form_for(name: str | None, task: str) -> Form:
    """The task's form of that name, or its first; SettingsError where it has none of that name."""
    forms = forms_of(task)
    found = next((form for form in forms if form.name == name), None) if name is not None else forms[0]
    if found is None:
        raise SettingsError(
            unknown(f"data.format={name}", "format", f"model.task={task}", [form.name for form in forms], str(name))
        )
    return found


def unknown(setting: str, what: str, of: str, known: Sequence[str], given: str) -> str:
    near = nearest(given, known)
    return (
        f"{setting}: {of} has no such {what}; "
        + (f"did you mean {near!r}? " if near else "")
        + f"It has {', '.join(known)}."
    )
