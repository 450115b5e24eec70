"""Causal language modelling: a token of an answer from everything that stands before it.

    ℓ_i = mean over the learnt tokens t of example i of -ln p(x_t | x_<t)

A mean over the example's own tokens, never over those of the batch, so that nothing couples examples. Figures of a set
are means over its tokens: a long answer weighs more there.
Shapes: b examples, t tokens, d hidden units, v words, n learnt tokens of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from fedlora.data.row import Row
from fedlora.settings import SettingsError
from fedlora.tasks.base import IGNORED, Batch, Item, Mean
from fedlora.tasks.learned_text import LearnedText, learned_text, require_template
from fedlora.tasks.metric import LOSS, SHARE, Metric
from fedlora.tasks.positions import try_full_length
from fedlora.tasks.pretrained import Pretrained
from fedlora.tasks.token_loss import likeliest, token_nats
from fedlora.tasks.tokens import OverTokens, filled, invented_texts, padded, vocabulary_of
from fedlora.tasks.usage import Usage
from fedlora.tasks.verdict import Course

TOKEN_ACCURACY = Metric("token_accuracy", unit=SHARE)
USAGE = Usage(
    auto="AutoModelForCausalLM",
    imports=("from transformers import AutoTokenizer",),
    examples='question = "My bag is lost. What can I do?"',
    lines="""tokenizer = AutoTokenizer.from_pretrained(base{at})

prompt, special = question, True  # of a model that learnt from prompts and completions: leave out the next lines
if tokenizer.chat_template:
    turn = [{{"role": "user", "content": question}}]
    prompt, special = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True), False
batch = tokenizer(prompt, add_special_tokens=special, return_tensors="pt")
ids, mask = batch["input_ids"], batch["attention_mask"]
with torch.inference_mode():
    answer = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=100, do_sample=False)
print(tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True))
""",
    peft_task="CAUSAL_LM",
    language_servers=True,
)


class CausalLM(Pretrained, OverTokens):
    """Instruction tuning and plain texts; the model is any that `AutoModelForCausalLM` loads.

    Batches are input_ids (b, t), attention_mask (b, t) and labels (b, t), which are the ids of learnt tokens.
    """

    dense: tuple[str, ...] = ()
    compare_by = LOSS
    metrics: tuple[Metric, ...] = (TOKEN_ACCURACY,)
    usage = USAGE

    auto = AutoModelForCausalLM

    def prepare(self, model: nn.Module, *, longest: int, outputs: int) -> None:
        """SettingsError for a model whose logits are not its output matrix times its last hidden state."""
        require_plain_logits(model, longest=longest)

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
        """With `each`, a row of which nothing can be made is ignored; otherwise SettingsError says its number."""
        if not processor.is_fast:
            raise SettingsError(f"{type(processor).__name__} is a slow tokenizer; choose a model with a fast one.")
        for form in {row.form for row in rows}:
            require_template(form, processor)
        return [self._item(row, number, processor, longest, each) for number, row in enumerate(rows, start=1)]

    def _item(self, row: Row, number: int, processor: PreTrainedTokenizerBase, longest: int, each: bool) -> Item:
        try:
            return item_of(*learned_ids(row, processor, longest=longest))
        except (KeyboardInterrupt, SystemExit, SettingsError):
            raise
        except BaseException as error:
            if each:
                return item_of([0], [False])
            raise SettingsError(f"example {number} cannot be used: {error}.") from None

    def collate(self, items: Sequence[Item], *, padding: int, length: int = 0) -> Batch:
        labels = filled([item["labels"] for item in items], IGNORED, length=length)
        return {**padded(items, padding=padding, length=length), "labels": labels}

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean over an example's learnt tokens; zero for one that has none."""
        row_n, next_n, hidden_nd = learned_tokens(model, batch)
        nats_n = token_nats(hidden_nd, *head_of(model), next_n)
        counts_b = torch.bincount(row_n, minlength=len(batch["labels"])).clamp(min=1)
        return nats_n.new_zeros(len(counts_b)).index_add(0, row_n, nats_n) / counts_b

    def measure(self, model: nn.Module, batch: Batch) -> dict[str, Mean]:
        """Nats a learnt token, and the share of them that are the likeliest."""
        _, next_n, hidden_nd = learned_tokens(model, batch)
        nats_n = token_nats(hidden_nd, *head_of(model), next_n)
        right = int((likeliest(hidden_nd, *head_of(model)) == next_n).sum())
        return {"loss": Mean(float(nats_n.sum()), len(next_n)), TOKEN_ACCURACY.name: Mean(right, len(next_n))}

    def judge(self, items: Sequence[Item], labels: Sequence[str]) -> Course:
        return Course(LOSS, len(items))

    def sample(self, model: nn.Module, *, longest: int, padding: int) -> list[Item]:
        texts = invented_texts(vocabulary_of(model), longest=longest, padding=padding)
        return [item_of(ids.tolist(), [False, *[True] * (len(ids) - 1)]) for ids in texts]


def require_plain_logits(model: nn.Module, *, longest: int) -> None:
    """SettingsError for a model whose logits are not its output matrix times its last hidden state; TooLongError for
    one that cannot read `longest` tokens."""
    reader: Any = model
    hidden = try_full_length(reader.base_model, tokens=longest).last_hidden_state
    with torch.no_grad():
        ids = torch.arange(min(4, longest), device=hidden.device)[None]
        own = reader(input_ids=ids, use_cache=False).logits.float()
        ours = functional.linear(hidden_of(model, {"input_ids": ids}), *head_of(model)).float()
    if not torch.allclose(own, ours, atol=1e-4, rtol=1e-4):
        raise SettingsError(
            f"the logits of {type(model).__name__} are more than its output matrix makes of its hidden states "
            "(they are scaled or capped), which is not supported; choose another model."
        )


def item_of(ids: Sequence[int], learned: Sequence[bool]) -> Item:
    """One example: its tokens, and which of them are learnt (the first never is: nothing stands before it). Of no
    token at all, which some tokenizers make of some texts, one that is not learnt."""
    input_ids = torch.tensor(ids or [0], dtype=torch.long)
    labels = input_ids.where(torch.tensor(learned or [False], dtype=torch.bool), IGNORED)
    labels[:1] = IGNORED
    return {"input_ids": input_ids, "labels": labels}


def learned_ids(row: Row, tokenizer: PreTrainedTokenizerBase, *, longest: int) -> tuple[list[int], list[bool]]:
    """The row's tokens, at most `longest`, and which of them lie wholly in what is learnt."""
    return learned_ids_of(learned_text(row, tokenizer, longest=longest), tokenizer, longest=longest)


def learned_ids_of(
    found: LearnedText, tokenizer: PreTrainedTokenizerBase, *, longest: int
) -> tuple[list[int], list[bool]]:
    """The same of a text that a row was made to."""
    encoded = tokenizer(
        found.text,
        add_special_tokens=not found.whole,
        return_offsets_mapping=True,
        truncation=True,
        max_length=longest,
    )
    learned = [
        end > start and any(start >= first and end <= last for first, last in found.learned)
        for start, end in encoded["offset_mapping"]
    ]
    return list(encoded["input_ids"]), learned


def hidden_of(model: nn.Module, read: Batch) -> Tensor:
    """The last hidden states (b, t, d), as the output matrix takes them."""
    reader: Any = model
    hidden_btd: Tensor = reader.base_model(**read, use_cache=False).last_hidden_state
    return hidden_btd


def head_of(model: nn.Module) -> tuple[Tensor, Tensor | None]:
    """The output matrix (v, d), which does not train, and its bias."""
    reader: Any = model
    head = reader.get_output_embeddings()
    if hasattr(head, "lora_A"):
        raise SettingsError("adapter.targets names the model's output matrix, which stays as it is here; leave it out.")
    return head.weight, getattr(head, "bias", None)


def learned_tokens(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Of every learnt token: its example (n,), its id (n,), and the hidden state before it (n, d)."""
    hidden_btd = hidden_of(model, {name: batch[name] for name in ("input_ids", "attention_mask")})
    row_n, place_n = (batch["labels"][:, 1:] != IGNORED).nonzero(as_tuple=True)
    return row_n, batch["labels"][row_n, place_n + 1], hidden_btd[row_n, place_n]
