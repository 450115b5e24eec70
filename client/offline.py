"""A site's agent goes to no hub by itself: a model that a message names is on this machine, or it is not loaded.

Unless client.yaml says `download_models: true`. Set in the processes themselves: a unit file may be missing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from client.settings import ClientSettings

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def environment(settings: ClientSettings) -> Mapping[str, str]:
    """What a process that loads models for this site is started with."""
    return {} if settings.download_models else OFFLINE


def stay_offline(settings: ClientSettings) -> None:
    """The same for this process. huggingface_hub reads its environment once, when it is imported: if it has been, it is
    told directly."""
    os.environ.update(environment(settings))
    hub = sys.modules.get("huggingface_hub.constants")
    if hub is not None and not settings.download_models:
        hub.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]  # a module's constant, which its functions read
