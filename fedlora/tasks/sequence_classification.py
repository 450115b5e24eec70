"""One class a text: the mean of the last hidden states over the text's tokens, and a linear head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedTokenizerBase

from fedlora.data.row import Row
from fedlora.settings import SettingsError
from fedlora.tasks.base import IGNORED, Batch, Item, Loaded
from fedlora.tasks.classes import HEAD, OverClasses, numbers_of
from fedlora.tasks.inputs.positions import try_full_length
from fedlora.tasks.inputs.texts import ids_of_texts
from fedlora.tasks.inputs.tokens import OverTokens, invented_texts, padded, vocabulary_of
from fedlora.tasks.pretrained import Pretrained
from fedlora.tasks.usage import Usage

USAGE = Usage(
    auto="AutoModel",
    imports=("from safetensors.torch import load_file", "from transformers import AutoTokenizer"),
    examples='texts = ["thanks for the quick help!", "my bag is lost"]',
    lines="""tokenizer = AutoTokenizer.from_pretrained(base{at})
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
tokenizer.padding_side = "right"
head = load_file(f"{{folder}}/head.safetensors")

batch = tokenizer(texts, padding=True, truncation=True, max_length={max_tokens}, return_tensors="pt")
ids, mask = batch["input_ids"], batch["attention_mask"]
with torch.inference_mode():
    hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
    pooled = (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
    logits = pooled @ head["weight"].T + head["bias"]
labels = {labels}
print([labels[number] for number in logits.argmax(-1).tolist()])
""",
    facts={"pooling": "mean"},
)


class SequenceClassification(OverClasses, Pretrained, OverTokens):
    """logits (b, classes) = head(mean over the tokens of the model's last hidden state).

    Batches are input_ids (b, t), attention_mask (b, t), labels (b,). The model is any encoder or decoder that
    `AutoModel` loads, with the linear layer `head` beside its own.
    """

    usage = USAGE

    auto = AutoModel

    def load(self, source: str, *, outputs: int, **options: Any) -> Loaded:
        """Without the pooler, which mean pooling does not use and many checkpoints lack: filled with random numbers it
        would make two equal bases look different."""
        loaded = super().load(source, outputs=outputs, **options)
        if isinstance(getattr(loaded.model, "pooler", None), nn.Module):
            loaded.model.register_module("pooler", None)
        return Loaded(loaded.model, tuple(name for name in loaded.missing if not name.startswith("pooler.")))

    def prepare(self, model: nn.Module, *, longest: int, outputs: int) -> None:
        if hasattr(model, HEAD):
            raise SettingsError(f"a {type(model).__name__} has a module `{HEAD}` of its own; choose another model.")
        width = int(try_full_length(model, tokens=longest).last_hidden_state.shape[-1])
        model.add_module(HEAD, nn.Linear(width, outputs))

    def encode(
        self,
        rows: Sequence[Row],
        processor: PreTrainedTokenizerBase,
        labels: Sequence[str],
        *,
        longest: int,
        padding: int,
        each: bool,
    ) -> list[Item]:
        """SettingsError on a class that is not in `labels`; with `each`, such a row is ignored."""
        numbers = numbers_of(rows, labels, each=each)
        ids = ids_of_texts([row["text"] for row in rows], processor, longest=longest, each=each)
        return [
            {
                "input_ids": torch.tensor(found or [padding], dtype=torch.long),
                "labels": torch.tensor(numbers.get(row["label"], IGNORED) if found else IGNORED),
            }
            for row, found in zip(rows, ids, strict=True)
        ]

    def collate(self, items: Sequence[Item], *, padding: int, length: int = 0) -> Batch:
        labels_b = torch.stack([item["labels"] for item in items])
        return {**padded(items, padding=padding, length=length), "labels": labels_b}

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        return logits_of(model, batch)

    def sample(self, model: nn.Module, *, longest: int, padding: int) -> list[Item]:
        texts = invented_texts(vocabulary_of(model), longest=longest, padding=padding)
        return [{"input_ids": ids, "labels": torch.tensor(0)} for ids in texts]


def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    """(b, classes), in float32."""
    ids_bt, mask_bt = batch["input_ids"], batch["attention_mask"]
    hidden_btd = model(input_ids=ids_bt, attention_mask=mask_bt).last_hidden_state
    mask_bt1 = mask_bt.unsqueeze(-1).to(hidden_btd.dtype)
    pooled_bd = (hidden_btd * mask_bt1).sum(1) / mask_bt1.sum(1).clamp(min=1)
    logits_bc: Tensor = model.get_submodule(HEAD)(pooled_bd)
    return logits_bc.float()
