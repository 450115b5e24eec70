"""A base model that is an object of this process: weights that somebody has loaded, in place of a folder with them.

Its config and its tokenizer are written to a folder of their own, so that everything but the weights is read as for any
other base. Guarantee: the object is not changed; its weights are copied into a model that the task loads.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedlora.settings import SettingsError

_GIVEN: dict[str, Path] = {}
"""`model.id` of what was given, and the folder with all but its weights."""
_WEIGHTS: dict[str, nn.Module] = {}
"""By that folder."""
UNNAMED = "given"


@contextmanager
def given_model(model: Any, processor: Any) -> Iterator[str]:
    """The `model.id` under which this process finds a transformers model, and its tokenizer or image processor."""
    for what, method in ((model, "state_dict"), (model, "config"), (processor, "save_pretrained")):
        if not hasattr(what, method):
            raise SettingsError(
                "model: give a model of transformers and its tokenizer (or image processor), as in "
                f"model=(model, tokenizer); a {type(what).__name__} is neither."
            )
    with tempfile.TemporaryDirectory(prefix="fedlora-") as folder:
        model.config.save_pretrained(folder)
        processor.save_pretrained(folder)
        name = getattr(model, "name_or_path", "") or UNNAMED
        _GIVEN[name], _WEIGHTS[folder] = Path(folder), model
        try:
            yield name
        finally:
            del _GIVEN[name], _WEIGHTS[folder]


def folder_given(model_id: str) -> Path | None:
    """Where config and tokenizer of a given model are; None for any other id."""
    return _GIVEN.get(model_id)


def taken(source: str, auto: Any, **options: Any) -> tuple[nn.Module, tuple[str, ...]] | None:
    """The given model of that folder as the Auto class builds it, and the weights that it lacks; None for others.

    A model with a head of its own gives what is below it, and one without gives what it has.
    """
    given: Any = _WEIGHTS.get(source)
    if given is None:
        return None
    kept = {name: value for name, value in options.items() if name in ("attn_implementation", "dtype")}
    model: Any = auto.from_config(given.config, **kept)
    weights = _named_alike(given.state_dict(), model, prefix=f"{given.base_model_prefix}.")
    found = model.load_state_dict(weights, strict=False)
    model.tie_weights()
    saved = set(found.missing_keys) - set(getattr(model, "_tied_weights_keys", None) or ())
    return model, tuple(sorted(saved))


def _named_alike(weights: dict[str, Tensor], model: nn.Module, *, prefix: str) -> dict[str, Tensor]:
    """The weights under the names that `model` has for them."""
    own = model.state_dict().keys()
    below = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    above = {f"{prefix}{name}": tensor for name, tensor in weights.items()}
    named = max((weights, below, above), key=lambda found: len(found.keys() & own))
    with torch.no_grad():
        return {name: tensor.detach().cpu() for name, tensor in named.items() if name in own}
