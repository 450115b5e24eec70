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
from fedlora.tasks.answering.generation import Asked, asked_of, generate_answers, overlap_of
from server.coordinate import load_state
from strategies.base import State

FILE = "answers.jsonl"


def answered(
    rows: Sequence[Row], state: State, *, placed: Recipe, loaded_model: LoadedModel, folder: Path
) -> dict[str, Any]:
    """`answers` of summary.json, and every answer in answers.jsonl; nothing where `rounds.generate` does not ask.

    SettingsError where no row is a question.
    """
    wanted = placed.rounds.generate
    if wanted is None:
        return {}
    asked = questions_in(rows, loaded_model, placed)
    chosen = [asked[number * len(asked) // wanted.examples] for number in range(wanted.examples)]
    chosen = chosen if len(asked) > wanted.examples else asked
    load_state(loaded_model, "held-out", state)
    after = written(chosen, loaded_model, placed)
    with untouched(loaded_model.model):
        before = written(chosen, loaded_model, placed)
    lines = [
        json.dumps({**asdict(one), "answer": now, "before": then}, ensure_ascii=False)
        for one, now, then in zip(chosen, after, before, strict=True)
    ]
    write_atomically(folder / FILE, ("\n".join(lines) + "\n").encode())
    found, start = overlap_of(after, chosen), overlap_of(before, chosen)
    return {
        "answers": {
            **asdict(found), "exact_match_before": start.exact_match, "rouge_l_before": start.rouge_l,
        }
    }  # fmt: skip


def sentence(answers: dict[str, Any]) -> str:
    """For a person."""
    return (
        f"Its answers to {answers['examples']} questions: ROUGE-L {answers['rouge_l']:.3f}, of the base "
        f"{answers['rouge_l_before']:.3f}; exact {answers['exact_match']:.3f}, of the base "
        f"{answers['exact_match_before']:.3f}."
    )


def questions_in(rows: Sequence[Row], loaded_model: LoadedModel, placed: Recipe) -> list[Asked]:
    """Those of rows that ask something."""
    found = []
    for row in rows:
        try:
            found.append(asked_of(row, loaded_model.base.processor, longest=placed.model.max_tokens))
        except ValueError:
            continue
    if not found:
        raise SettingsError("rounds.generate: no row of the test set is a question; remove it, or test on others.")
    return found


def written(asked: Sequence[Asked], loaded_model: LoadedModel, placed: Recipe) -> list[str]:
    """By the model as it stands."""
    wanted = placed.rounds.generate
    assert wanted is not None
    with autocast(placed.model):
        return generate_answers(
            loaded_model.model,
            loaded_model.base.processor,
            asked,
            longest=placed.model.max_tokens,
            max_new_tokens=wanted.max_new_tokens,
            at_once=min(8, placed.train.microbatch_size or 8),
        )
