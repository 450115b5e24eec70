"""What a language model has forgotten: a text that is not of the training, in nats a token, under it and its base.

The text is cut into windows of `model.max_tokens`, each read by itself; windows are what another text would have had
others of, so the error is theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fedlora.adapters.untouched import untouched
from fedlora.config import GateSettings
from fedlora.gate.rule import no_worse
from fedlora.gate.verdict import Check
from fedlora.models.base import autocast
from fedlora.results.judging.figures import difference
from fedlora.results.opened import Opened
from fedlora.settings import SettingsError
from fedlora.tasks.answering.token_loss import token_nats
from fedlora.tasks.answers import head_of, learned_tokens
from fedlora.tasks.base import Mean
from fedlora.tasks.metric import LOSS

NAME = "forgetting"


def windows_of(opened: Opened, file: Path) -> list[Tensor]:
    """Token ids, at least two each; SettingsError for a file that has no such text."""
    try:
        text = file.expanduser().read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SettingsError(f"--forgetting {file}: it is no text in UTF-8.") from None
    ids = torch.tensor(opened.base.processor(text, verbose=False)["input_ids"], dtype=torch.long)
    found = [window for window in torch.split(ids, opened.on.max_tokens) if len(window) > 1]
    if not found:
        raise SettingsError(f"--forgetting {file}: there is no text in it.")
    return found


def forgetting(opened: Opened, windows: Sequence[Tensor], by: GateSettings) -> Check:
    ours = [nats(opened, window) for window in windows]
    with untouched(opened.model):
        theirs = [nats(opened, window) for window in windows]
    apart = difference(ours, theirs)
    check = no_worse(NAME, apart, LOSS, "on the text, against the base", margin=by.forgetting, by=by)
    tokens = sum(mean.weight for mean in ours)
    return check.model_copy(update={"figures": {**check.figures, "tokens": int(tokens)}})


@torch.inference_mode()
def nats(opened: Opened, window: Tensor) -> Mean:
    ids = window[None].to(opened.on.device)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    with autocast(opened.on):
        _, next_n, hidden_nd = learned_tokens(opened.model, batch)
        nats_n = token_nats(hidden_nd, *head_of(opened.model), next_n)
    return Mean(float(nats_n.double().sum()), len(nats_n))
