"""What tasks of one class an example share: their loss, their figures, and the numbers of their classes.

Shapes: b examples, c classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional

from fedlora.data.row import Row, labels_in
from fedlora.devices.transfers import read_together
from fedlora.settings import SettingsError
from fedlora.tasks.base import Batch, Item, Mean
from fedlora.tasks.guessing import ACCURACY, Guessing
from fedlora.tasks.metric import Metric

HEAD = "head"


class OverClasses(ABC):
    """Judged by accuracy, against always answering with the largest class. A task says its logits."""

    dense: tuple[str, ...] = (HEAD,)
    compare_by = ACCURACY
    metrics: tuple[Metric, ...] = (ACCURACY,)

    @abstractmethod
    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """(b, c), in float32."""

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy of every example's class."""
        return functional.cross_entropy(self.logits(model, batch), batch["labels"], reduction="none")

    def measure(self, model: nn.Module, batch: Batch) -> dict[str, Mean]:
        """Cross-entropy, and the share of examples whose most likely class is theirs."""
        logits_bc, labels_b = self.logits(model, batch), batch["labels"]
        loss_b = functional.cross_entropy(logits_bc, labels_b, reduction="none")
        loss, right = read_together(loss_b.sum(), (logits_bc.argmax(-1) == labels_b).sum())
        return {"loss": Mean(loss, len(labels_b)), ACCURACY.name: Mean(right, len(labels_b))}

    def judge(self, items: Sequence[Item], labels: Sequence[str]) -> Guessing:
        return Guessing.on((int(item["labels"]) for item in items), classes=len(labels))


def numbers_of(rows: Sequence[Row], labels: Sequence[str], *, each: bool) -> Mapping[str, int]:
    """The number of each class; SettingsError for a row of another one, unless `each` row stands for itself."""
    numbers = {label: number for number, label in enumerate(labels)}
    unknown = sorted(set(labels_in(rows)) - numbers.keys())
    if unknown and not each:
        raise SettingsError(f"the label {unknown[0]!r} is not one of the run's classes: {', '.join(labels)}.")
    return numbers
