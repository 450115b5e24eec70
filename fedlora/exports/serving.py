"""The lines that programs are started with to serve an export: vLLM's `--lora-modules`, Ollama's Modelfile."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from fedlora.adapters.uniform import RANKS
from fedlora.files import write_atomically
from fedlora.models.from_gguf import SUFFIX
from fedlora.models.named import NamedBase
from fedlora.models.packaged import PACKAGED

MODELFILE = """# ollama create fine-tuned -f Modelfile
# llama-server -m {file} --lora {adapter}
#
# {file}: the base model, which llama.cpp's convert_hf_to_gguf.py writes where there is none yet.
# {whereabouts}
FROM ./{file}
ADAPTER ./{adapter}
"""


def vllm_line(base: NamedBase, rank: int, adapters: Mapping[str, str]) -> str:
    """One server for the base with these adapters, by name and folder: a request names the one that it wants."""
    room = next(known for known in RANKS if known >= rank)
    modules = " ".join(shlex.quote(f"{name}={folder}") for name, folder in adapters.items())
    at = f" --revision {base.revision}" if base.revision else ""
    return f"vllm serve {shlex.quote(base.place)}{at} --enable-lora --max-lora-rank {room} --lora-modules {modules}"


def fits_vllm(rank: int) -> bool:
    """Whether vLLM has room for such an adapter at all."""
    return rank <= max(RANKS)


def write_modelfile(folder: Path, base: NamedBase, *, adapter: str) -> None:
    """Ollama's Modelfile for a GGUF adapter in the folder, on the base as a GGUF file beside it."""
    text = MODELFILE.format(file=gguf_of(base), adapter=adapter, whereabouts=base.whereabouts)
    write_atomically(folder / "Modelfile", text.encode())


def gguf_of(base: NamedBase) -> str:
    """The file of the base for llama.cpp and Ollama: its own where it is one, otherwise one that is to be made."""
    own = PACKAGED[base.id].file if base.id in PACKAGED else base.id
    return Path(own).name if own.endswith(SUFFIX) else "base.gguf"
