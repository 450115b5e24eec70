"""What a run's model answers to questions of the test set, beside what its base does: once, when the run is over.

Token by token, which is dear: 24 answers of 64 tokens are as much work as a hundred evaluations of as many rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedlora.adapters.untouched import untouched
from fedlora.config import Recipe
from fedlora.data.row import Row
from fedlora.files import write_atomically
from fedlora.models.base import autocast
from fedlora.models.loaded_model import LoadedModel
from fedlora.settings import SettingsError
from fedlora.tasks.answering.generation import Asked, asked_of, generate_answers, overlap_of, require_room
from server.coordinate import load_state
from strategies.base import State

FILE = "answers.jsonl"
AT_ONCE = 8
"""Questions together, where the machine does not take fewer."""


def questions(rows: Sequence[Row], *, placed: Recipe, loaded_model: LoadedModel) -> list[Asked]:
    """The rows that are to be asked, spread over all that can be; none where `rounds.generate` does not ask.

    SettingsError, before a round, where no row is a question or the model has no room for the answers.
    """
    wanted = placed.rounds.generate
    if wanted is None:
        return []
    longest = placed.model.max_tokens
    asked = questions_in(rows, loaded_model, longest=longest)
    require_room(loaded_model.model, longest=longest, max_new_tokens=wanted.max_new_tokens)
    if len(asked) <= wanted.examples:
        return asked
    return [asked[number * len(asked) // wanted.examples] for number in range(wanted.examples)]


def answered(
    asked: Sequence[Asked], state: State, *, placed: Recipe, loaded_model: LoadedModel, folder: Path
) -> dict[str, Any]:
    """`answers` of summary.json, and every answer in answers.jsonl; nothing where nothing is asked."""
    if not asked:
        return {}
    load_state(loaded_model, "held-out", state)
    after = written(asked, loaded_model, placed)
    with untouched(loaded_model.model):
        before = written(asked, loaded_model, placed)
    lines = [
        json.dumps({**asdict(one), "answer": now, "before": then}, ensure_ascii=False)
        for one, now, then in zip(asked, after, before, strict=True)
    ]
    write_atomically(folder / FILE, ("\n".join(lines) + "\n").encode())
    found, start = overlap_of(after, asked), overlap_of(before, asked)
    base = {"exact_match_before": start.exact_match, "rouge_l_before": start.rouge_l}
    return {"answers": {**asdict(found), **base}}


def sentence(answers: dict[str, Any]) -> str:
    """For a person."""
    return (
        f"Its answers to {answers['examples']} questions: ROUGE-L {answers['rouge_l']:.3f}, of the base "
        f"{answers['rouge_l_before']:.3f}; exact {answers['exact_match']:.3f}, of the base "
        f"{answers['exact_match_before']:.3f}."
    )


def questions_in(rows: Sequence[Row], loaded_model: LoadedModel, *, longest: int) -> list[Asked]:
    """Those of rows that ask something."""
    found = []
    for row in rows:
        try:
            found.append(asked_of(row, loaded_model.base.processor, longest=longest))
        except ValueError:
            continue
    if not found:
        raise SettingsError("rounds.generate: no row of the test set is a question; remove it, or test on others.")
    return found


def written(asked: Sequence[Asked], loaded_model: LoadedModel, placed: Recipe) -> list[str]:
    """By the model as it stands; ValueError where `rounds.generate` does not ask."""
    wanted = placed.rounds.generate
    if wanted is None:
        raise ValueError("rounds.generate does not say how long an answer may be.")
    with autocast(placed.model):
        return generate_answers(
            loaded_model.model,
            loaded_model.base.processor,
            asked,
            longest=placed.model.max_tokens,
            max_new_tokens=wanted.max_new_tokens,
            at_once=min(AT_ONCE, placed.train.microbatch_size or AT_ONCE),
        )
