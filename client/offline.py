"""Offline mode: a model that a message names must be on this machine, otherwise it is not loaded.

Unless client.yaml says `download_models: true`. Set in the processes themselves: a unit file may be missing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from client.settings import ClientSettings

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def environment(settings: ClientSettings) -> Mapping[str, str]:
    """Environment of a process that loads models for this site."""
    return {} if settings.download_models else OFFLINE


def stay_offline(settings: ClientSettings) -> None:
    """Set the same for this process. huggingface_hub reads its environment once, when it is imported: if it has been,
    its own setting is changed."""
    os.environ.update(environment(settings))
    hub = sys.modules.get("huggingface_hub.constants")
    if hub is not None and not settings.download_models:
        hub.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]  # a module's constant, which its functions read
