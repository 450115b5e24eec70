"""What the rows of a task look like: which columns they have, and by which of them an example is known.

The names of the formats are TRL's where TRL has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator

from fedlora.data.entities.spans import named
from fedlora.data.tables.table import Cells, Complaint


@dataclass(frozen=True)
class Form:
    """One kind of row. A task reads one or several (`fedlora.tasks.registry`); `data.format` chooses."""

    name: str
    columns: tuple[str, ...]
    key: str | None = None
    """The column by which an example is known: rows that share it are one example, or in conflict. None: all of them.

    Not the prompt where a prompt may have several answers: then one row more would move several between the sides of a
    split, and the noise of one example would not cover it."""
    label: str | None = None
    """The column of the class; None where rows have none."""
    of_words: bool = False
    """Whether a cell of that column is a list of classes, one for each word."""
    nested: tuple[str, ...] = ()
    """Columns whose cells are lists or objects of JSON; in a table of texts, JSON written as text."""
    may_be_empty: tuple[str, ...] = ()
    """Those of them in which an empty list says something: that there is no entity."""
    images: tuple[str, ...] = ()
    """Columns whose cells are images, as the bytes of a file; in a table of texts, the path of the file."""
    noun: str = "text"
    """What people call an example."""


TEXT_AND_LABEL = Form("text-label", ("text", "label"), key="text", label="label")
PROMPT_AND_COMPLETION = Form("prompt-completion", ("prompt", "completion"))
MESSAGES = Form("messages", ("messages",), nested=("messages",))
TEXT = Form("text", ("text",))
PREFERENCE = Form("preference", ("prompt", "chosen", "rejected"))
PREFERENCE_MESSAGES = Form("preference-messages", PREFERENCE.columns, nested=PREFERENCE.columns)
UNPAIRED = Form("unpaired-preference", ("prompt", "completion", "label"))
"""The label says whether the completion is a good one, and is no class: nothing is sorted."""
UNPAIRED_MESSAGES = Form("unpaired-preference-messages", UNPAIRED.columns, nested=("prompt", "completion"))
CHOICES = Form("choices", ("prompt", "choices", "answer"), nested=("choices",))
CHOICES_MESSAGES = Form("choices-messages", CHOICES.columns, nested=("prompt", "choices"))
TOKENS_AND_TAGS = Form(
    "tokens-tags", ("tokens", "tags"), key="tokens", label="tags", of_words=True, nested=("tokens", "tags")
)
TEXT_AND_SPANS = Form(
    "text-spans", ("text", "spans"), key="text", label="spans", of_words=True, nested=("spans",),
    may_be_empty=("spans",),
)  # fmt: skip
IMAGE_AND_LABEL = Form("image-label", ("image", "label"), key="image", label="label", images=("image",), noun="image")


class Names(dict[str, str]):
    """A mapping that is not changed after it was read, so that settings that hold one can be a key of a cache."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


ColumnNames = Annotated[Mapping[str, str], AfterValidator(Names)]
"""For settings: a column of the form, and what a source calls it."""


@dataclass(frozen=True)
class Columns:
    """What a source calls the columns of a form; without `client`, rows belong to nobody in particular."""

    form: Form = TEXT_AND_LABEL
    renamed: tuple[tuple[str, str], ...] = ()
    """The column of the form, and the source's own name for it, where that is another."""
    client: str | None = None
    client_by_file: bool = False
    """Whether, in a folder of files none of which has the column `client`, each file is a client of its own."""
    tag_names: tuple[str, ...] = ()
    """What the numbers of words' tags mean, from 0 on, where a source has numbers."""

    @property
    def names(self) -> tuple[str, ...]:
        """The source's names of the form's columns."""
        own = dict(self.renamed)
        return tuple(own.get(column, column) for column in self.form.columns)

    @property
    def nested(self) -> tuple[str, ...]:
        """The source's names of the columns whose cells are lists or objects."""
        own = dict(self.renamed)
        return tuple(own.get(column, column) for column in self.form.nested)

    @property
    def images(self) -> tuple[str, ...]:
        """The source's names of the columns whose cells are images."""
        own = dict(self.renamed)
        return tuple(own.get(column, column) for column in self.form.images)

    @property
    def label(self) -> str | None:
        """The source's name of the column of the class."""
        return None if self.form.label is None else dict(self.renamed).get(self.form.label, self.form.label)

    def nothing_in(self, cells: Cells) -> Complaint | None:
        """Of the form's cells the first that is an empty list where that says nothing."""
        for column, name, cell in zip(self.form.columns, self.names, cells, strict=True):
            if column in self.form.nested and column not in self.form.may_be_empty and cell in ("[]", "{}"):
                return Complaint(0, f"nothing in column {name!r}", malformed=False)
        return None

    def named_tags(self, cells: Cells) -> Cells:
        """The form's cells, numbers of tags by their names."""
        if not (self.tag_names and self.form.of_words and self.form.label in self.form.columns):
            return cells
        place = self.form.columns.index(self.form.label)
        return (*cells[:place], named(str(cells[place]), self.tag_names), *cells[place + 1 :])

    def named(self) -> dict[str, str]:
        """Column names by the setting that names them."""
        chosen = {setting_of(column): name for column, name in zip(self.form.columns, self.names, strict=True)}
        return chosen if self.client is None else {**chosen, "data.client_column": self.client}


SHORT = ("text", "label")
"""Columns with a setting of their own name beside `data.columns`."""


def setting_of(column: str) -> str:
    """The setting that says what a file calls a column.

    >>> setting_of("text"), setting_of("prompt")
    ('data.text', 'data.columns.prompt')
    """
    return f"data.{column}" if column in SHORT else f"data.columns.{column}"
