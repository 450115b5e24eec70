"""`load`: an adapter in its base model, and its answers to rows that are objects of this process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlora.data.form import Form
from fedlora.data.row import Row
from fedlora.data.tables.cells import text_of
from fedlora.python.result import Result
from fedlora.results.given import row_of
from fedlora.results.opened import Opened, open_result
from fedlora.results.registry import results_of
from fedlora.settings import SettingsError
from fedlora.tasks.registry import forms_of

if TYPE_CHECKING:
    from os import PathLike

    from torch import nn

CHUNK = 256
"""Rows that are answered before the next are looked at."""


@dataclass(frozen=True)
class Adapter:
    """What was learnt, ready to answer."""

    opened: Opened

    @property
    def model(self) -> nn.Module:
        """The base with the adapter in it, in evaluation mode."""
        return self.opened.model

    @property
    def tokenizer(self) -> Any:
        """The base's own; of images, its image processor."""
        return self.opened.base.processor

    @property
    def task(self) -> str:
        return self.opened.on.task

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of the head's outputs; none where the task has none."""
        return self.opened.labels

    def predict(self, rows: Iterable[Any], *, max_tokens: int = 100) -> list[dict[str, Any]]:
        """One answer for every row: its label with probabilities, a written answer, or which of two is preferred.

        A row is a text, or a mapping of the columns that `fedlora predict` asks for. One that cannot be answered has
        `error` alone. `max_tokens`: of an answer that is written.
        """
        results = results_of(self.task)
        stand_in = next(iter(self.labels), "")
        asked = [row_given(row, forms_of(self.task), results.asks, stand_in=stand_in) for row in rows]
        answers = results.answers(self.opened, asked, most_tokens=max_tokens)
        return [dict(answer) for answer in answers]


def load(place: Result | str | PathLike[str], *, base: str | None = None, device: str | None = None) -> Adapter:
    """The adapter of a run (its result or its folder), or an adapter's own folder, in its base model.

    `base`: where the base lies on this machine, if not where it was. SettingsError where there is no adapter, there are
    several (one a site), or the base is another one than it was trained on.
    """
    folder = place.folder if isinstance(place, Result) else Path(place)
    return Adapter(open_result(folder, base=base, device=device))


def row_given(given: Any, forms: Iterable[Form], asks: Any, *, stand_in: str) -> Row:
    """The row of the first form whose questions `given` has; what is not asked is empty, a class the stand-in."""
    known = list(forms)
    for form in known:
        asked: tuple[str, ...] = asks(form)
        if isinstance(given, str) and len(asked) == 1 and not form.nested and not form.images:
            given = {asked[0]: given}
        if isinstance(given, Mapping) and set(asked) <= given.keys():
            cells = {
                column: value if isinstance(value, bytes) else text_of(value, nested=column in form.nested)[0]
                for column, value in given.items()
                if column in asked
            }
            return row_of(cells, form, stand_in)
    wanted = " or ".join(f"{{{', '.join(asks(form))}}}" for form in known)
    raise SettingsError(f"a row to predict on is a mapping with the columns {wanted}; got a {type(given).__name__}.")
