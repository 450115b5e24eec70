"""What makes two base models the same: every weight, the architecture, and how a row becomes what the model reads.

A coordinator names a base model and its fingerprint; a site trains only on one that it has loaded and that has this
fingerprint. The tokenizer is part of it: one whose normaliser was crafted could do to a single phrase what it likes. So
is an image processor, with the library that it resizes by.

Guarantee: two bases with one fingerprint give the same token ids for every text, and the same hidden states for those
ids. Paths, versions, and what a call sets anew (padding, the longest length) are no part of it.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from fedlora.tasks.base import Processor

CONFIG_IGNORED = frozenset({"_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures"})
SET_BY_EVERY_CALL = frozenset({"truncation", "padding"})
TOKENIZER_IGNORED = frozenset({"name_or_path", "transformers_version", "is_local", "local_files_only", "backend"})
"""Of a tokenizer written in Python: where it came from. Settings that end in `_file` are paths as well."""
PROCESSOR_IGNORED = frozenset({"_processor_class", "name_or_path", "image_processor_type", "transformers_version"})
"""Of an image processor: what its class says already, and what made the file."""


def fingerprint_of(encoder: nn.Module, config: Mapping[str, Any], processor: Processor, *, held: str = "") -> str:
    """32 hexadecimal digits: before any adapter, the same on every machine that holds the same base, or not.

    `held`: by which scheme the weights are quantised, and the hash of code that the model brings; mostly empty.
    """
    digest = hashlib.blake2b(_canonical(described(config)), digest_size=16)
    if held:
        digest.update(f"\0held {held}".encode())
    digest.update(b"\0" + _canonical(reading(processor)))
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"\0{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def parts_of(config: Mapping[str, Any], processor: Processor) -> dict[str, str]:
    """What else than weights a fingerprint is of, 8 hexadecimal digits each: two sides with unlike fingerprints compare
    these, and where all are equal it is the weights."""
    reads = reading(processor)
    template = reads.pop("chat template", None)
    kind = "tokenizer" if isinstance(processor, PreTrainedTokenizerBase) else "image processor"
    named = {"configuration": described(config), kind: reads, "chat template": template}
    digests = {
        name: hashlib.blake2b(_canonical(part), digest_size=4).hexdigest() for name, part in named.items() if part
    }
    return digests


def reading(processor: Processor) -> dict[str, Any]:
    """Everything that decides how this loaded processor makes of a row what the model reads."""
    return _of_tokenizer(processor) if isinstance(processor, PreTrainedTokenizerBase) else _of_images(processor)


def _of_images(processor: Any) -> dict[str, Any]:
    """The class, which says by which library it resizes, and its settings."""
    settings = {name: value for name, value in processor.to_dict().items() if name not in PROCESSOR_IGNORED}
    return {"class": type(processor).__name__, "settings": settings}


def _of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Everything that decides how this loaded tokenizer turns a text into ids, and its chat template."""
    return {
        "rules": _backend(tokenizer) if tokenizer.is_fast else _written_in_python(tokenizer),
        "special tokens": sorted((name, str(token)) for name, token in tokenizer.special_tokens_map.items()),
        "special ids": sorted(tokenizer.all_special_ids),
        "padding id": tokenizer.pad_token_id,
        "truncation side": tokenizer.truncation_side,
        "splits special tokens": bool(getattr(tokenizer, "split_special_tokens", False)),
        "chat template": tokenizer.chat_template,
    }


def _backend(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The whole of a fast tokenizer as it was loaded: files that its class does not read decide nothing."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    return {name: rule for name, rule in rules.items() if name not in SET_BY_EVERY_CALL}


def _written_in_python(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The class, its settings and added tokens, and the vocabulary as it writes it."""
    given = tokenizer.init_kwargs.items()
    settings = {name: v for name, v in given if name not in TOKENIZER_IGNORED and not name.endswith("_file")}
    with tempfile.TemporaryDirectory() as folder:
        written = sorted(Path(name) for name in tokenizer.save_vocabulary(folder) or ())
        files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in written}
    return {
        "class": type(tokenizer).__name__,
        "settings": settings,
        "added": sorted((number, repr(token)) for number, token in tokenizer.added_tokens_decoder.items()),
        "files": files,
    }


def described(config: Mapping[str, Any]) -> dict[str, Any]:
    """A model's configuration without where it came from and how it is stored, at any depth.

    >>> described({"dtype": "float16", "text_config": {"dtype": "float16", "hidden_size": 3}})
    {'text_config': {'hidden_size': 3}}
    """
    return {
        name: described(value) if isinstance(value, Mapping) else value
        for name, value in config.items()
        if name not in CONFIG_IGNORED
    }


def _canonical(values: object) -> bytes:
    return json.dumps(values, sort_keys=True, default=str).encode()
