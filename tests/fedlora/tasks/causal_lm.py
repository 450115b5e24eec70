"""A causal language model as a task: the prompt is read, the answer is learnt. Small; held by the registry's tests."""

from __future__ import annotations

import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from fedlora.tasks.base import IGNORED, Mean
from fedlora.tasks.metric import LOSS, SHARE, Metric
from fedlora.tasks.positions import try_full_length
from fedlora.tasks.pretrained import Pretrained
from fedlora.tasks.tokens import OverTokens, filled, invented_texts, padded, vocabulary_of
from fedlora.tasks.verdict import Course


class CausalLM(Pretrained, OverTokens):
    auto = AutoModelForCausalLM
    dense = ()
    metrics = (Metric("token_accuracy", unit=SHARE),)
    compare_by = LOSS

    def prepare(self, model, *, longest, outputs):
        try_full_length(model, tokens=longest)

    def encode(self, rows, processor, labels, *, longest, padding, each):
        pairs = [(processor(row.text)["input_ids"], processor(row.label)["input_ids"]) for row in rows]
        return [item_of([*prompt, *answer, processor.eos_token_id][:longest], len(prompt)) for prompt, answer in pairs]

    def collate(self, items, *, padding, length=0):
        labels = filled([item["labels"] for item in items], IGNORED, length=length)
        return {**padded(items, padding=padding, length=length), "labels": labels}

    def losses(self, model, batch):
        nats_bt, counts_bt, _ = tokens_of(model, batch)
        return nats_bt.sum(1) / counts_bt.sum(1).clamp(min=1)

    def measure(self, model, batch):
        nats_bt, counts_bt, right_bt = tokens_of(model, batch)
        tokens = float(counts_bt.sum())
        return {"loss": Mean(float(nats_bt.sum()), tokens), "token_accuracy": Mean(float(right_bt.sum()), tokens)}

    def judge(self, items, labels):
        return Course(LOSS, len(items))

    def sample(self, model, *, longest, padding):
        return [
            item_of(ids.tolist(), 1) for ids in invented_texts(vocabulary_of(model), longest=longest, padding=padding)
        ]


def item_of(ids, prompt):
    labels = torch.tensor(ids)
    labels[:prompt] = IGNORED
    return {"input_ids": torch.tensor(ids), "labels": labels}


def tokens_of(model, batch):
    """Nats, which count, and which are right, each (b, t - 1)."""
    read = {name: batch[name] for name in ("input_ids", "attention_mask")}
    logits_btv, next_bt = model(**read).logits[:, :-1].float(), batch["labels"][:, 1:]
    counts_bt = next_bt != IGNORED
    nats_bt = functional.cross_entropy(logits_btv.mT, next_bt, reduction="none", ignore_index=IGNORED)
    return nats_bt, counts_bt, (logits_btv.argmax(-1) == next_bt) & counts_bt
