"""What is read of a pair of answers to one prompt, in TRL's columns: `prompt`, `chosen`, `rejected`.

    preference            three texts: each answer stands behind the prompt, and ends with the end token
    preference-messages   three lists of messages, through the chat template: the prompt's and then the answer's

Only the answer is learnt: what the assistant says in the prompt is read, like all of it.
"""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from fedlora.data.form import PREFERENCE_MESSAGES, PROMPT_AND_COMPLETION
from fedlora.data.row import Row
from fedlora.tasks.inputs.learned_text import LearnedText, chat, learned_text, listed_messages, messages_in

SIDES = ("chosen", "rejected")


def pair_of_texts(row: Row, tokenizer: PreTrainedTokenizerBase, *, longest: int) -> tuple[LearnedText, LearnedText]:
    """Prompt with the chosen and prompt with the rejected answer; ValueError, without content, where there are none."""
    if row.form == PREFERENCE_MESSAGES:
        prompt = listed_messages(row["prompt"])
        one, other = (
            chat([*prompt, *messages_in(row[side])], tokenizer, longest=longest, read=len(prompt)) for side in SIDES
        )
    else:
        answers = (Row(PROMPT_AND_COMPLETION, (row["prompt"], row[side])) for side in SIDES)
        one, other = (learned_text(answer, tokenizer, longest=longest) for answer in answers)
    return one, other
