"""Classes of very unequal sizes: examples that the model is sure of count less (focal loss, arXiv 1708.02002)."""

from __future__ import annotations

from torch import Tensor, nn

from fedlora.data.form import TEXT_AND_LABEL
from fedlora.tasks.base import Batch
from fedlora.tasks.sequence_classification import SequenceClassification

GAMMA = 2.0


class FocalClassification(SequenceClassification):
    """(1 - p)^γ · cross-entropy, p the probability of the example's own class. Judged as any classifier."""

    forms = (TEXT_AND_LABEL,)

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        loss_b = super().losses(model, batch)
        return (1 - (-loss_b).exp()) ** GAMMA * loss_b
