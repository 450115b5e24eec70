"""A tag a word: entities in texts. What an encoder makes of a word's first piece, and a linear classifier.

    ℓ_i = mean over the words w of example i of -ln p(tag_w)

A mean over the example's own words, never over those of the batch, so that nothing couples examples. Figures of a set
are sums over it: a long text weighs more there, and F1 is that of all its entities together (micro).
Shapes: b examples, t tokens, c classes (tags), n words of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForTokenClassification, PreTrainedTokenizerBase

from fedlora.data.form import Form
from fedlora.data.row import Row
from fedlora.devices.transfers import read_together
from fedlora.settings import SettingsError
from fedlora.tasks.base import IGNORED, Batch, Item, Loaded, Mean
from fedlora.tasks.classes import numbers_of
from fedlora.tasks.inputs.by_itself import by_itself
from fedlora.tasks.inputs.positions import try_full_length
from fedlora.tasks.inputs.tokens import OverTokens, filled, invented_texts, padded, require_fast, vocabulary_of
from fedlora.tasks.metric import SHARE, Metric
from fedlora.tasks.pretrained import Pretrained
from fedlora.tasks.tags.scheme import codes_of
from fedlora.tasks.tags.spans import Counts, counted
from fedlora.tasks.tags.words import item_of_words, nothing, numbers_of_tags
from fedlora.tasks.usage import Usage
from fedlora.tasks.verdict import Course

CLASSIFIER = "classifier"
"""As transformers' encoders for token classification call it."""

F1, PRECISION, RECALL = Metric("f1"), Metric("precision"), Metric("recall")
TOKEN_ACCURACY = Metric("token_accuracy", unit=SHARE)
"""The share of words whose likeliest tag is theirs; most words are outside of every entity."""

USAGE = Usage(
    auto="AutoModelForTokenClassification",
    imports=("from transformers import AutoTokenizer",),
    examples='text = "my flight from boston to new york is late again"',
    lines="""tokenizer = AutoTokenizer.from_pretrained(base{at})
words = text.split()
batch = tokenizer(text, truncation=True, max_length={max_tokens}, return_offsets_mapping=True, return_tensors="pt")
ends = [end for start, end in batch.pop("offset_mapping")[0].tolist()]
ids, mask = batch["input_ids"], batch["attention_mask"]
with torch.inference_mode():
    numbers = model(input_ids=ids, attention_mask=mask).logits[0].argmax(-1).tolist()
labels, tags, place = {labels}, [], 0
for word in words:  # a word's tag is that of its first piece
    place = text.index(word, place)
    piece = next((piece for piece, end in enumerate(ends) if end > place), None)
    tags.append("O" if piece is None else labels[numbers[piece]])
    place += len(word)
print(list(zip(words, tags)))
""",
    peft_task="TOKEN_CLS",
    owns_dense=True,
    arguments=", num_labels={outputs}",
)


class TokenClassification(Pretrained, OverTokens):
    """The model is any encoder that `AutoModelForTokenClassification` loads with a `classifier`, which trains whole.

    Batches are input_ids, attention_mask and labels (b, t), the labels at the words' first pieces; and codes (b, c),
    what every class says of a word (`fedlora.tasks.tags.scheme`).
    """

    dense: tuple[str, ...] = (CLASSIFIER,)
    compare_by = F1
    metrics: tuple[Metric, ...] = (F1, PRECISION, RECALL, TOKEN_ACCURACY)
    usage = USAGE

    auto = AutoModelForTokenClassification

    def load(self, source: str, *, outputs: int, **options: Any) -> Loaded:
        """Without a classifier, whatever the checkpoint has: `prepare` puts one in. Drawn here, it would make two equal
        bases look different."""
        options |= {"num_labels": outputs, "ignore_mismatched_sizes": True}
        loaded = super().load(source, outputs=outputs, **options)
        setattr(require_classifier(loaded.model), CLASSIFIER, nn.Identity())
        return Loaded(loaded.model, tuple(name for name in loaded.missing if not name.startswith(f"{CLASSIFIER}.")))

    def prepare(self, model: nn.Module, *, longest: int, outputs: int) -> None:
        setattr(require_classifier(model), CLASSIFIER, nn.Identity())
        width = int(try_full_length(model, tokens=longest).logits.shape[-1])
        setattr(model, CLASSIFIER, nn.Linear(width, outputs))

    def require_readable(self, form: Form, processor: PreTrainedTokenizerBase) -> None:
        require_fast(processor)

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
        """SettingsError for classes that are no tags, and for a row with another tag, or with not as many tags as
        words; with `each`, such a row is ignored."""
        codes, numbers = torch.tensor(codes_of(labels)), numbers_of(rows, labels, each=each)
        for form in {row.form for row in rows}:
            self.require_readable(form, processor)

        def make(row: Row) -> Item:
            words, tags = row.words_and_tags()
            made = item_of_words(words, numbers_of_tags(tags, numbers), processor, longest=longest)
            return {**made, "codes": codes}

        return by_itself(rows, make, lambda: nothing(codes), each=each)

    def collate(self, items: Sequence[Item], *, padding: int, length: int = 0) -> Batch:
        labels = filled([item["labels"] for item in items], IGNORED, length=length)
        codes = torch.stack([item["codes"] for item in items])
        return {**padded(items, padding=padding, length=length), "labels": labels, "codes": codes}

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean over an example's words; zero for one that has none."""
        labels_bt = batch["labels"]
        nats_bt = nats_of(logits_of(model, batch), labels_bt)
        return nats_bt.sum(1) / (labels_bt != IGNORED).sum(1).clamp(min=1)

    def measure(self, model: nn.Module, batch: Batch) -> dict[str, Mean]:
        return self.measured(logits_of(model, batch), batch)

    def measured(self, logits_btc: Tensor, batch: Batch) -> dict[str, Mean]:
        """Nats a word, the entities that are found, and the share of words whose tag is right."""
        labels_bt = batch["labels"]
        words_bt, likeliest_bt = labels_bt != IGNORED, logits_btc.argmax(-1)
        nats_bt = nats_of(logits_btc, labels_bt)
        words, right, loss = read_together(words_bt.sum(), (likeliest_bt == labels_bt).sum(), nats_bt.sum())
        entities = sum(entities_of(likeliest_bt, batch).values(), Counts())
        return {
            "loss": Mean(loss, words),
            F1.name: entities.f1,
            PRECISION.name: entities.precision,
            RECALL.name: entities.recall,
            TOKEN_ACCURACY.name: Mean(right, words),
        }

    def judge(self, items: Sequence[Item], labels: Sequence[str]) -> Course:
        return Course(F1, len(items))

    def sample(self, model: nn.Module, *, longest: int, padding: int) -> list[Item]:
        """Every second token is the first piece of a word."""
        outputs = int(getattr(model.get_submodule(CLASSIFIER), "out_features", 1))
        texts = invented_texts(vocabulary_of(model), longest=longest, padding=padding)
        places = [torch.arange(len(ids)) for ids in texts]
        return [
            {
                "input_ids": ids,
                "labels": (place // 2 % outputs).where(place % 2 == 0, IGNORED),
                "codes": torch.arange(outputs),
            }
            for ids, place in zip(texts, places, strict=True)
        ]


def require_classifier(model: nn.Module) -> nn.Module:
    """The model; SettingsError where it is none with a classifier over all positions."""
    if not isinstance(getattr(model, CLASSIFIER, None), nn.Module):
        raise SettingsError(
            f"a {type(model).__name__} has no module `{CLASSIFIER}`; choose an encoder, such as BERT, RoBERTa, DeBERTa "
            "or ELECTRA."
        )
    return model


def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    """(b, t, c), in float32."""
    logits_btc: Tensor = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return logits_btc.float()


def nats_of(logits_btc: Tensor, labels_bt: Tensor) -> Tensor:
    """(b, t): cross-entropy of every word's tag, zero where no word begins."""
    return functional.cross_entropy(logits_btc.mT, labels_bt, reduction="none", ignore_index=IGNORED)


def entities_of(likeliest_bt: Tensor, batch: Batch) -> dict[int, Counts]:
    """By type."""
    found, there = [], []
    for likeliest_t, labels_t, codes_c in zip(likeliest_bt, batch["labels"], batch["codes"], strict=True):
        words_t = labels_t != IGNORED
        found.append(codes_c[likeliest_t[words_t]].tolist())
        there.append(codes_c[labels_t[words_t]].tolist())
    return counted(found, there)
