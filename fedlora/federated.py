"""`federate(trainer)`: an existing Hugging Face trainer as a client. Found where it stands when it is called."""

from __future__ import annotations

import importlib
from typing import Any

from fedlora.units_path import add_units_to_path


def federate(trainer: Any, **settings: Any) -> Any:
    """The client of a `transformers.Trainer`, or of TRL's SFTTrainer or DPOTrainer, whose model is a PeftModel.

    Settings and errors are those of `client.federated.client.federate`.
    """
    add_units_to_path()
    return importlib.import_module("client.federated.client").federate(trainer, **settings)
