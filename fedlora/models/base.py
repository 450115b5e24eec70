"""Base models: a Hugging Face encoder or decoder by hub id, folder, GGUF file or package, made ready for its task."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PretrainedConfig

from fedlora.adapters.dense import mark_dense, mark_zero
from fedlora.config import ModelSettings
from fedlora.config.model import LoadDtype
from fedlora.devices.shared import Shared, share_weights
from fedlora.models.fingerprint import fingerprint_of, parts_of
from fedlora.models.location import locate as locate
from fedlora.models.location import not_to_be_had, of_timm
from fedlora.models.quantised.scheme import loading_options, require_quantisable, scheme_of, settled
from fedlora.models.quiet import quiet_transformers as quiet_transformers
from fedlora.plugins.base_code import trusted_code
from fedlora.settings import SettingsError
from fedlora.tasks.base import Processor
from fedlora.tasks.inputs.positions import TooLongError
from fedlora.tasks.registry import task_named

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Base:
    """A loaded base model. `source` is where it came from, as `from_pretrained` takes it."""

    model: nn.Module
    """As transformers loads it, with what its task adds (`fedlora.tasks`)."""
    source: str
    fingerprint: str
    """Of what was loaded, processor included (`fedlora.models.fingerprint`)."""
    parts: Mapping[str, str]
    """What it is of besides the weights, each by itself: for people who look for what differs."""
    processor: Processor
    """The very one that the fingerprint is of."""
    padding: int
    """The token that batches are filled up with; 0 where nothing is padded."""


def load_base(settings: ModelSettings, labels: tuple[str, ...], *others: Shared) -> Base:
    """Load the model in evaluation mode on its device; SettingsError with the way out when it is not to be had.

    `others`: models of this process, whose weights it shares if they are the same.
    """
    task, source, device = task_named(settings.task), locate(settings.id), usable_device(settings.device)
    code = trusted_code(settings.id, source)
    require_bfloat16(settings, device)
    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(source, trust_remote_code=code is not None)
            require_usable(settings, config)
            loaded = task.load(
                source,
                outputs=len(labels),
                dtype=floats_of(settings),
                trust_remote_code=code is not None,
                **attention(settings),
                **loading_options(settings.load_dtype),
            )
        except (OSError, ValueError, ImportError) as error:
            if isinstance(error, SettingsError):
                raise
            raise not_to_be_had(settings.id, error) from None
    processor = load_processor(settings)
    model = loaded.model
    require_complete(loaded.missing, model_id=settings.id)
    if settings.gradient_checkpointing:
        recompute_activations(model, model_id=settings.id)
    scheme, described = scheme_of(settings.load_dtype), config.to_dict()
    if scheme is not None:
        settled(model)
    held = "; ".join([*([] if scheme is None else [scheme.said]), *([] if code is None else [f"code {code}"])])
    fingerprint, parts = fingerprint_of(model, described, processor, held=held), parts_of(described, processor)
    share_weights(model, fingerprint, others, device=device, dense=task.dense)
    prepare(model.to(device).eval(), settings, outputs=len(labels))
    mark_dense(model, task.dense)
    mark_zero(model, task.zeros)
    return Base(model.to(device).eval(), source, fingerprint, parts, processor, task.padding(processor))


def other_fingerprints(settings: ModelSettings, labels: tuple[str, ...]) -> dict[LoadDtype, str]:
    """Of the base in the other forms that a run allows; each is loaded once for it, and let go."""
    asked = {form: settings.model_copy(update={"load_dtype": form}) for form in settings.also_held_as}
    return {form: load_base(on, labels).fingerprint for form, on in asked.items()}


def floats_of(settings: ModelSettings) -> torch.dtype:
    """Of what is not quantised."""
    found: torch.dtype = getattr(torch, "float32" if scheme_of(settings.load_dtype) else settings.load_dtype)
    return found


def outline(settings: ModelSettings) -> nn.Module:
    """The model without its weights: what is needed to see which matrices it has. Nothing large is read or made."""
    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(locate(settings.id), trust_remote_code=False)
        except (OSError, ValueError, ImportError) as error:
            if isinstance(error, SettingsError):
                raise
            raise not_to_be_had(settings.id, error) from None
        model = task_named(settings.task).outline(config)
    mark_dense(model, task_named(settings.task).dense)
    return model


def attention(settings: ModelSettings) -> dict[str, str]:
    """Plain attention for bfloat16 on a CPU: torch's fused one is 3 to 7 times slower there (24 to 128 tokens)."""
    plain = computes_in(settings) == torch.bfloat16 and torch.device(settings.device).type == "cpu"
    return {"attn_implementation": "eager"} if plain else {}


def require_usable(settings: ModelSettings, config: PretrainedConfig) -> None:
    """Refuse, before the weights are read, what would fail in the first forward pass."""
    if config.model_type == "timm_wrapper":
        raise of_timm(settings.id)
    if config.is_encoder_decoder:
        raise SettingsError(
            f"model.id={settings.id!r} is an encoder-decoder model ({config.model_type}); choose an encoder or a "
            "decoder-only model."
        )
    require_quantisable(settings, config)
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and 0 < positions < settings.max_tokens:  # XLNet, which has no limit, says -1
        raise too_long(settings, positions)


def too_long(settings: ModelSettings, positions: int) -> SettingsError:
    return SettingsError(
        f"model.max_tokens={settings.max_tokens} is more than the {positions} positions of {settings.id!r}; lower it."
    )


def recompute_activations(encoder: Any, *, model_id: str) -> None:
    """Gradient checkpointing, or a SettingsError where the architecture has none."""
    try:
        encoder.gradient_checkpointing_enable({"use_reentrant": False})
    except ValueError:
        raise SettingsError(
            f"model.id={model_id!r} ({type(encoder).__name__}) cannot recompute its activations; set "
            "model.gradient_checkpointing to false."
        ) from None
    encoder.enable_input_require_grads()


def prepare(model: nn.Module, settings: ModelSettings, *, outputs: int) -> None:
    """What the task adds to the model; SettingsError if the model cannot read a text of `max_tokens`.

    Seen from the model itself: a config's max_position_embeddings counts places that no token can have (RoBERTa), and
    its hidden_size is not what comes out of a last projection (OPT).
    """
    try:
        task_named(settings.task).prepare(model, longest=settings.max_tokens, outputs=outputs)
    except SettingsError:
        raise
    except TooLongError as error:
        raise too_long(settings, error.positions) from None
    except Exception as error:
        raise SettingsError(
            f"model.id={settings.id!r} cannot read a text of model.max_tokens={settings.max_tokens} tokens "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}); lower it, "
            "or choose another model."
        ) from error


def require_complete(missing: Sequence[str], *, model_id: str) -> None:
    """SettingsError for a checkpoint that lacks weights: filled with random numbers two bases would never be equal."""
    if missing:
        raise SettingsError(
            f"model.id={model_id!r} lacks {len(missing)} weight(s), the first is {min(missing)}; give a complete "
            "checkpoint."
        )


def load_processor(settings: ModelSettings) -> Processor:
    """What makes of a row what the model reads, as its task loads it; SettingsError where there is none to be used."""
    return task_named(settings.task).processor(locate(settings.id), model_id=settings.id)


def usable_device(name: str) -> torch.device:
    """The device, or a SettingsError when this machine has none of that name."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        usable = device.type != "meta"  # torch's device without memory: it computes shapes, and nothing else
    except (RuntimeError, AssertionError):
        usable = False
    if not usable:
        raise SettingsError(
            f"the device {name!r} is not available on this machine; use cpu, or another: --device on the command line, "
            "`device` in client.yaml or server.yaml."
        )
    return device


def require_bfloat16(settings: ModelSettings, device: torch.device) -> None:
    """SettingsError for a GPU that would emulate bfloat16, slower than float32: before compute capability 8.0."""
    if computes_in(settings) != torch.bfloat16 or device.type != "cuda":
        return
    with torch.cuda.device(device):
        emulated = not torch.cuda.is_bf16_supported(including_emulation=False)
        name = torch.cuda.get_device_name()
    if emulated:
        asked = "model.load_dtype" if settings.load_dtype == "bfloat16" else "model.dtype"
        way_out = (
            "load_dtype: float32" if settings.load_dtype == "bfloat16" else "dtype: float32 (--dtype, client.yaml)"
        )
        raise SettingsError(f"{asked}=bfloat16: {name} ({device}) has no bfloat16 of its own; use {way_out}.")
    if settings.load_dtype == "float32":
        log.warning(
            "model.dtype=bfloat16 over weights in float32: every matrix is converted again in every pass, and its copy "
            "kept for the backward pass; with model.load_dtype=bfloat16 it is held so once, in half the memory"
        )


def computes_in(settings: ModelSettings) -> torch.dtype:
    """What the forward and backward pass run in: bfloat16 weights have no products with float32 numbers."""
    return torch.bfloat16 if "bfloat16" in (settings.dtype, settings.load_dtype) else torch.float32


def autocast(settings: ModelSettings) -> AbstractContextManager[object]:
    """bfloat16 forward and backward where the settings ask for it; what trains, and its gradients, stay float32."""
    if computes_in(settings) == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(torch.device(settings.device).type, dtype=torch.bfloat16)
