"""What a model is fine-tuned for. Another task is one model class, two functions and one line in `TASKS`.

The form that everything else relies on: `model.encoder` (frozen; `fedlora.adapters` adapts it), `model.head` (trains).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

Batch = Mapping[str, Tensor]
"""input_ids (b, t), attention_mask (b, t), labels (b,)."""


@dataclass(frozen=True)
class TaskKind:
    """One task: its model, what it minimises, and how well an example is answered.

    Guarantee: nothing couples the examples of a batch, in the model or in either function; privacy stands on it.
    """

    build: Callable[[nn.Module, int, int], nn.Module]
    """(encoder, width of its hidden states, number of classes) -> the model, its head with arbitrary values."""

    loss_per_sample: Callable[[nn.Module, Batch], Tensor]
    """Loss of every example by itself (b,), in nats."""

    score: Callable[[nn.Module, Batch], tuple[Tensor, Tensor]]
    """Loss (b,) in nats, and 1 where the answer is right, else 0 (b,)."""


class SequenceClassifier(nn.Module):
    """logits (b, classes) = head(mean over the tokens of the encoder's last hidden state).

    The head's values are the coordinator's, like the adapter's (`fedlora.adapters.initial_adapter`).
    """

    def __init__(self, encoder: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(width, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden_btd = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask_bt1 = attention_mask.unsqueeze(-1).to(hidden_btd.dtype)
        pooled_bd = (hidden_btd * mask_bt1).sum(1) / mask_bt1.sum(1).clamp(min=1)
        logits: Tensor = self.head(pooled_bd)
        return logits


def loss_of_class(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of every example's class."""
    logits_bc = model(batch["input_ids"], batch["attention_mask"]).float()
    return functional.cross_entropy(logits_bc, batch["labels"], reduction="none")


def score_of_class(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Cross-entropy, and whether the most likely class is the example's."""
    logits_bc = model(batch["input_ids"], batch["attention_mask"]).float()
    loss_b = functional.cross_entropy(logits_bc, batch["labels"], reduction="none")
    return loss_b, (logits_bc.argmax(-1) == batch["labels"]).long()


TASKS = {"sequence-classification": TaskKind(SequenceClassifier, loss_of_class, score_of_class)}
