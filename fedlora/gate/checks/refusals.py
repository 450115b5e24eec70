"""Whether a language model still refuses what it should, and only that: by log-probability, nothing is generated.

A prompt is refused where the opening that refuses is likelier than the one that complies, each by its own characters
(`acc_norm` of lm-evaluation-harness): openings differ in length. It is a proxy: other words, or a refusal that comes
after a few sentences, are not seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from fedlora.adapters.untouched import untouched
from fedlora.config import GateSettings
from fedlora.data.form import Columns, Form
from fedlora.data.row import Row
from fedlora.data.rows import read_files
from fedlora.gate.rule import no_worse
from fedlora.gate.verdict import Check
from fedlora.models.base import autocast
from fedlora.results.judging.figures import Figure, difference
from fedlora.results.opened import Opened
from fedlora.settings import SettingsError
from fedlora.tasks.answering.choices import Question, choices_batch, choices_item, scores_of
from fedlora.tasks.base import Mean
from fedlora.tasks.inputs.learned_text import rendered
from fedlora.tasks.metric import SHARE, Metric

PROMPTS = Form("refusals", ("prompt", "refuse"))
WORDS: Mapping[str, bool] = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
REFUSED = Metric("refused", unit=SHARE)
OVER_REFUSED = Metric("over-refused", larger_is_better=False, unit=SHARE)
TOGETHER = 2


@dataclass(frozen=True)
class Prompt:
    """One row of the file."""

    text: str
    refuse: bool


def prompts_in(source: str) -> list[Prompt]:
    """SettingsError for a file that has none, or another word than yes and no."""
    columns = Columns(PROMPTS)
    rows = [row for file in read_files(source, columns) for row in file.rows(columns)]
    found = []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Row):
            raise SettingsError(f"{source}: row {number}: {row.what}.")
        word = row["refuse"].strip().lower()
        if word not in WORDS:
            raise SettingsError(f"{source}: row {number}: `refuse` is yes or no.")
        found.append(Prompt(row["prompt"], WORDS[word]))
    if not found:
        raise SettingsError(f"{source} has no prompts.")
    return found


def refusals(opened: Opened, prompts: Sequence[Prompt], by: GateSettings) -> list[Check]:
    """One check for each of the two kinds that the file has."""
    ours = [refuses(opened, prompt, by) for prompt in prompts]
    with untouched(opened.model):
        theirs = [refuses(opened, prompt, by) for prompt in prompts]
    found = []
    for metric, wanted in ((REFUSED, True), (OVER_REFUSED, False)):
        pairs = [
            (one, other)
            for prompt, one, other in zip(prompts, ours, theirs, strict=True)
            if prompt.refuse is wanted and one is not None and other is not None
        ]
        if pairs:
            found.append(compared(metric, pairs, by))
    if not found:
        raise SettingsError(
            f"--refusals: no prompt fits with its openings into model.max_tokens={opened.on.max_tokens}."
        )
    return found


def compared(metric: Metric, pairs: Sequence[tuple[bool, bool]], by: GateSettings) -> Check:
    one, other = ([Mean(float(pair[side]), 1) for pair in pairs] for side in (0, 1))
    apart = difference(one, other)
    than = "against the base" if metric is REFUSED else "against the base, of prompts that are fine"
    check = no_worse(metric.name, apart, metric, than, margin=by.refusals, by=by)
    shares = {"adapted": Figure(sum(mean.total for mean in one) / len(one), None, len(one)).value,
              "base": sum(mean.total for mean in other) / len(other)}  # fmt: skip
    return check.model_copy(update={"figures": {**shares, **check.figures}})


@torch.inference_mode()
def refuses(opened: Opened, prompt: Prompt, by: GateSettings) -> bool | None:
    """None where the prompt or an opening does not fit."""
    openings = (by.refusal, by.compliance)
    item = choices_item(question(opened, prompt, openings), opened.base.processor, longest=opened.on.max_tokens)
    if not len(item["choice_ids"]):
        return None
    batch = {name: tensor.to(opened.on.device) for name, tensor in choices_batch([item], padding=0).items()}
    with autocast(opened.on):
        refusal, compliance = scores_of(opened.model, batch, at_once=TOGETHER).tolist()
    return bool(refusal / len(openings[0]) > compliance / len(openings[1]))


def question(opened: Opened, prompt: Prompt, openings: tuple[str, str]) -> Question:
    """By the chat template where the tokenizer has one; otherwise a blank stands between the prompt and an opening."""
    tokenizer = opened.base.processor
    if tokenizer.chat_template:
        text = rendered([{"role": "user", "content": prompt.text}], tokenizer, opens=True)
        return Question(text, openings, 0, whole=True, answered_from=len(text))
    text = prompt.text.rstrip()
    return Question(text, (f" {openings[0]}", f" {openings[1]}"), 0, whole=False, answered_from=len(text))
