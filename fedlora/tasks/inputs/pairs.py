"""What is read of answers that somebody judged, in TRL's columns.

    prompt, chosen, rejected       two answers to one prompt
    prompt, completion, label      one answer, and whether it is good: true or false

Of texts each answer stands behind the prompt, and ends with the end token; lists of messages (`...-messages`) go
through the chat template, the prompt's and then the answer's. Only the answer is learnt: what the assistant says in the
prompt is read, like all of it.
"""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from fedlora.data.form import PROMPT_AND_COMPLETION
from fedlora.data.row import Row
from fedlora.tasks.inputs.learned_text import LearnedText, chat, learned_text, listed_messages, messages_in

SIDES = ("chosen", "rejected")
JUDGED = {"true": True, "1": True, "false": False, "0": False}


def pair_of_texts(row: Row, tokenizer: PreTrainedTokenizerBase, *, longest: int) -> tuple[LearnedText, LearnedText]:
    """Prompt with the chosen and prompt with the rejected answer; ValueError, without content, where there are none."""
    one, other = (answer_text(row, side, tokenizer, longest=longest) for side in SIDES)
    return one, other


def answer_text(row: Row, column: str, tokenizer: PreTrainedTokenizerBase, *, longest: int) -> LearnedText:
    """Prompt with the answer of one column; ValueError, without content, where there is none."""
    if column in row.form.nested:
        prompt = listed_messages(row["prompt"])
        return chat([*prompt, *messages_in(row[column])], tokenizer, longest=longest, read=len(prompt))
    return learned_text(Row(PROMPT_AND_COMPLETION, (row["prompt"], row[column])), tokenizer, longest=longest)


def is_good(row: Row) -> bool:
    """What the label says; ValueError, without content, where it is another word."""
    label = row["label"].strip().lower()
    if label not in JUDGED:
        raise ValueError("its label is neither true nor false")
    return JUDGED[label]
