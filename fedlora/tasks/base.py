"""What a task answers for: its model, its examples, what it minimises, and by which figures it is judged."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from fedlora.data.form import Form
from fedlora.data.row import Row
from fedlora.tasks.metric import Metric
from fedlora.tasks.usage import Usage
from fedlora.tasks.verdict import Judge

Item = Mapping[str, Tensor]
"""One example, encoded: tensors by name, without a batch dimension."""
Batch = Mapping[str, Tensor]
"""Examples side by side: what the model and the loss are given."""

Processor = Any
"""What makes of a row what the model reads: a tokenizer of transformers, or an image processor."""

IGNORED = -100
"""The label of an example, or a token, that is there and has no loss: cross-entropy leaves it out."""

LARGEST_EXPONENT = 700.0
"""Of e, for a float: in nats."""

SAMPLES = 6
"""How many examples `TaskKind.sample` invents: three short ones, then three of full length."""


@dataclass(frozen=True)
class Mean:
    """A mean that adds up, over the batches of one set.

    >>> (Mean(3.0, 4) + Mean(1.0, 4)).value
    0.5
    """

    total: float
    weight: float
    """How many examples (or tokens, or entities) the total is of."""
    of_nothing: float = float("nan")
    """The value where nothing was measured."""
    exponent: bool = False
    """Whether the value is e to the mean: a perplexity."""

    def __add__(self, other: Mean) -> Mean:
        """Of two of one figure."""
        return replace(other, total=self.total + other.total, weight=self.weight + other.weight)

    @property
    def value(self) -> float:
        return self.of_mean(self.total / self.weight) if self.weight else self.of_nothing

    def of_mean(self, mean: float) -> float:
        """The value where the mean is this; infinite where no float is so large."""
        if not self.exponent:
            return mean
        return math.exp(mean) if mean < LARGEST_EXPONENT else math.inf


@dataclass(frozen=True)
class Loaded:
    """A model as `from_pretrained` gave it."""

    model: nn.Module
    missing: tuple[str, ...]
    """Weights that the checkpoint lacks."""


class TaskKind(Protocol):
    """One task. Nothing outside its file knows what its rows hold, what its model is called, or what it counts.

    Guarantee: nothing couples the examples of a batch, in the model or in `losses`; privacy stands on it.
    """

    dense: tuple[str, ...]
    """Paths of the modules that train whole beside the adapters (PEFT: modules_to_save); most tasks have none.
    Their values are the coordinator's, like the adapter's (`fedlora.adapters.initial_adapter`)."""

    zeros: tuple[str, ...]
    """Those of `dense` that start at zero; the others are drawn. A head that starts at zero lets no gradient through in
    the first step."""

    metrics: tuple[Metric, ...]
    """What `measure` gives besides `loss`."""

    compare_by: Metric
    """The figure by which runs and sweeps are ranked: one of these, or `fedlora.tasks.metric.LOSS`."""

    usage: Usage
    """How the result of a run is loaded and used without fedlora."""

    def load(self, source: str, *, outputs: int, **options: Any) -> Loaded:
        """The pretrained model, without what the task does not use of it; `options` are `from_pretrained`'s."""
        ...

    def outline(self, config: Any) -> nn.Module:
        """The same without weights (on torch's meta device): what is needed to see which matrices it has."""
        ...

    def processor(self, source: str, *, model_id: str) -> Processor:
        """The model's own, from where the model is; SettingsError where it has none that can be used."""
        ...

    def padding(self, processor: Processor) -> int:
        """The token that batches are filled up with; 0 where nothing is padded. SettingsError where there is none."""
        ...

    def prepare(self, model: nn.Module, *, longest: int, outputs: int) -> None:
        """Try the model at full length and add what the task needs beside it; TooLongError where it cannot be read."""
        ...

    def require_readable(self, form: Form, processor: Processor) -> None:
        """SettingsError where nothing can be made of any row of this form, whatever is in it: known before a charge."""
        ...

    def encode(
        self,
        rows: Sequence[Row],
        processor: Processor,
        labels: Sequence[str],
        *,
        longest: int,
        padding: int,
        each: bool,
    ) -> list[Item]:
        """One item a row; SettingsError where nothing comes of any.

        With `each`, a row that cannot be used stays in as `ignored` has it, by itself: a site under privacy must not
        fail because of what one row holds.
        """
        ...

    def collate(self, items: Sequence[Item], *, padding: int, length: int = 0) -> Batch:
        """Items as one batch, padded to the longest of them, and to `length` if that is more."""
        ...

    def length(self, item: Item) -> int:
        """What the item is padded by: its tokens; 1 where nothing is padded."""
        ...

    def positions(self, model: nn.Module, *, longest: int) -> int:
        """How many hidden states a layer of the model has for one example, at most."""
        ...

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """Loss of every example by itself (b,), in nats; zero, without a gradient, for one that is ignored."""
        ...

    def measure(self, model: nn.Module, batch: Batch) -> Mapping[str, Mean]:
        """`loss`, in nats, and the task's metrics."""
        ...

    def judge(self, items: Sequence[Item], labels: Sequence[str]) -> Judge:
        """Who says what a run's figures on these examples mean; `verdict.Course` where nothing is known of them."""
        ...

    def sample(self, model: nn.Module, *, longest: int, padding: int) -> Sequence[Item]:
        """`SAMPLES` examples of nobody, to try the model on before it sees any data.

        The first three are short, the others what the longest of the data will be; the three of one kind have one
        public length (`fedlora.tasks.inputs.padding.public_length`), and not all the same number of tokens.
        """
        ...

    def pads_with(self, model: nn.Module, padding: int) -> bool:
        """Whether the model knows the token that batches are filled up with."""
        ...

    def usable(self, model: nn.Module) -> Callable[[Item], bool]:
        """Whether the model can compute an item at all: a token that it does not know would end the process."""
        ...

    def ignored(self, item: Item) -> Item:
        """What stands in the place of an item that is not usable: computable, and without a loss."""
        ...


@runtime_checkable
class TakesReference(Protocol):
    """A task whose loss may look at what the base model makes of an example, too (`fedlora.models.reference`)."""

    @property
    def takes_reference(self) -> bool:
        """Whether it does, with its settings."""
        ...

    def reference(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Constants of every example (b, ...), by the names that they have in an item, of the model as it stands."""
        ...


@runtime_checkable
class Packs(TaskKind, Protocol):
    """A task whose examples may share a row (`train.packing`), none seeing another."""

    def pack(self, items: Sequence[Item], *, padding: int) -> Batch:
        """Items as one batch for `losses`, which gives the loss of each in their order."""
        ...


@runtime_checkable
class CountsTokens(Protocol):
    """A task whose examples have learnt tokens, by which clients may be weighted."""

    def learnt_tokens(self, item: Item) -> int:
        """How many tokens of an example have a loss."""
        ...
