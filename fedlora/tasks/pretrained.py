"""Models through one of transformers' Auto classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fedlora.data.form import Form
from fedlora.models.given import taken
from fedlora.tasks.base import Loaded, Processor


class Pretrained:
    """A task whose model is what `auto` makes of a checkpoint or of a config."""

    auto: Any
    zeros: tuple[str, ...] = ()

    def load(self, source: str, *, outputs: int, **options: Any) -> Loaded:
        given = taken(source, self.auto, **options)
        if given is not None:
            return Loaded(*given)
        model, loading = self.auto.from_pretrained(source, output_loading_info=True, **options)
        return Loaded(model, tuple(loading["missing_keys"]))

    def outline(self, config: Any) -> nn.Module:
        with torch.device("meta"):
            model: nn.Module = self.auto.from_config(config)
        return model

    def require_readable(self, form: Form, processor: Processor) -> None:
        """Whatever processor the model has, it reads the rows of most tasks."""
