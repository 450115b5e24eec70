"""What tasks of a model that writes answers share: the model, its learnt tokens, and encoding row by row.

Shapes: b examples, t tokens, d hidden units, v words, n learnt tokens of a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from fedlora.data.form import Form
from fedlora.data.row import Row
from fedlora.settings import SettingsError
from fedlora.tasks.base import IGNORED, Batch, Item
from fedlora.tasks.inputs.by_itself import by_itself
from fedlora.tasks.inputs.learned_text import LearnedText, require_template
from fedlora.tasks.inputs.positions import try_full_length
from fedlora.tasks.inputs.tokens import OverTokens, require_fast
from fedlora.tasks.pretrained import Pretrained
from fedlora.tasks.usage import Usage

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

READ = ("input_ids", "attention_mask", "position_ids")
"""What of a batch the model is given."""


class OverAnswers(Pretrained, OverTokens, ABC):
    """A task whose model is any that `AutoModelForCausalLM` loads. It says what it makes of a row, and of none."""

    dense: tuple[str, ...] = ()
    usage = USAGE

    auto = AutoModelForCausalLM

    @abstractmethod
    def item(self, row: Row, processor: PreTrainedTokenizerBase, *, longest: int) -> Item:
        """ValueError, without content, for a row of which nothing can be made."""

    @abstractmethod
    def nothing(self) -> Item:
        """What stands in the place of such a row: computable, and without a loss."""

    def prepare(self, model: nn.Module, *, longest: int, outputs: int) -> None:
        """SettingsError for a model whose logits are not its output matrix times its last hidden state."""
        require_plain_logits(model, longest=longest)

    def require_readable(self, form: Form, processor: PreTrainedTokenizerBase) -> None:
        require_fast(processor)
        require_template(form, processor)

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
        for form in {row.form for row in rows}:
            self.require_readable(form, processor)
        make = partial(self.item, processor=processor, longest=longest)
        return by_itself(rows, make, self.nothing, each=each)


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
    hidden_btd = hidden_of(model, {name: batch[name] for name in READ if name in batch})
    row_n, place_n = (batch["labels"][:, 1:] != IGNORED).nonzero(as_tuple=True)
    example_n = batch["examples"][row_n, place_n] if "examples" in batch else row_n  # several in a packed row
    return example_n, batch["labels"][row_n, place_n + 1], hidden_btd[row_n, place_n]
