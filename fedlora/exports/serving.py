"""The lines that programs are started with to serve an export: vLLM's `--lora-modules`, Ollama's Modelfile."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from fedlora.adapters.uniform import RANKS
from fedlora.models.named import NamedBase


def vllm_line(base: NamedBase, rank: int, adapters: Mapping[str, str]) -> str:
    """One server for the base with these adapters, by name and folder: a request names the one that it wants."""
    room = next(known for known in RANKS if known >= rank)
    modules = " ".join(shlex.quote(f"{name}={folder}") for name, folder in adapters.items())
    at = f" --revision {base.revision}" if base.revision else ""
    return f"vllm serve {shlex.quote(base.place)}{at} --enable-lora --max-lora-rank {room} --lora-modules {modules}"
