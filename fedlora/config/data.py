"""`data:` where examples come from and how a simulation spreads them over clients."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedlora.data.classes import Classes
from fedlora.data.form import ColumnNames, Form
from fedlora.data.membership import ShareOrNumber
from fedlora.protocol.versions import Since
from fedlora.settings import Settings


class DataSettings(Settings):
    """Where examples come from and how they are spread over clients."""

    source: str = "airlines"
    """`airlines` or `organisations` (packaged messages), `entities` (words of the messages to airlines, with tags),
    `faq` (packaged questions and answers), `faq-preference` (the same with a wrong answer each), `digits` or `fashion`
    (packaged images), a local CSV, TSV, JSON, JSONL or Parquet file, or a folder of such files; of images also a folder
    of class folders, or a file of MNIST's form; of tagged words also files of CoNLL's form; a plug-in."""

    text: str = "text"
    """Column with the text."""

    label: str = "label"
    """Column with the class."""

    format: Annotated[str | None, Since(2)] = None
    """What the rows look like, where the task reads several formats: of causal-lm `prompt-completion`, `messages` or
    `text`; of preference, unpaired-preference and multiple-choice texts (`preference`, `unpaired-preference`,
    `choices`) or, with `-messages` behind it, messages; of token-classification `tokens-tags` or
    `text-spans`. The task's first when not given."""

    columns: Annotated[ColumnNames | None, Since(2)] = None
    """What the file calls the format's columns, where it is another name: {prompt: question, completion: answer}."""

    tag_names: Annotated[Classes | None, Since(2)] = None
    """Of words: what the numbers in the file's tags mean, from 0 on, where it has no names ([O, B-PLACE, I-PLACE])."""

    labels: Classes | None = Field(None, min_length=2)
    """Class names (of words their tags) in the order of the head's outputs; those that the source holds, sorted, when
    not given."""

    partition: Literal["natural", "iid", "dirichlet", "label"] = "natural"
    """`natural` groups by `client_column`; the others ignore it and make `clients` parts."""

    client_column: str = "client"
    """Column that names the organisation a row belongs to; a folder of files without it has one client a file."""

    clients: int | None = Field(None, ge=1)
    """Number of parts for the partitions that are not natural; which part an example is in, its own text decides."""

    alpha: float = Field(0.5, gt=0)
    """Concentration of the Dirichlet partition: smaller is more unequal."""

    test_fraction: float = Field(0.1, gt=0, lt=1)
    """Probability of an example to be kept apart by its client, which evaluates on it what it receives."""

    train_fraction: Annotated[float | None, Since(2)] = Field(None, gt=0, le=1)
    """Probability of an example to be trained on; all that are not kept apart when not given. Use fewer by this."""

    held_out: ShareOrNumber = 0.1
    """The one shared test set, taken out before clients are formed: a share of the texts (0.1), or a number (500)."""

    max_examples: int | None = Field(None, ge=1)
    """Use at most this many training examples per client. Not under example-level privacy: one example more would push
    another out; give `train_fraction` there."""

    def of_form(self, form: Form) -> DataSettings:
        """The same for rows of this format: of `columns`, those that it has."""
        known = {column: name for column, name in (self.columns or {}).items() if column in form.columns}
        return self.model_copy(update={"format": form.name, "columns": known or None})

    @model_validator(mode="after")
    def _parts_are_counted(self) -> DataSettings:
        if self.partition != "natural" and self.clients is None:
            raise ValueError(f"data.clients is missing, the number of parts that partition={self.partition} makes.")
        return self

    @model_validator(mode="after")
    def _fractions_fit(self) -> DataSettings:
        if self.train_fraction is not None and self.test_fraction + self.train_fraction > 1 + 1e-9:
            raise ValueError(
                f"test_fraction {self.test_fraction:g} and train_fraction {self.train_fraction:g} are more "
                "than all examples together; lower one of them."
            )
        return self
