"""GGUF files of causal language models, dequantised once into a plain float32 folder with tokenizer and chat template.

transformers reads the file (its `gguf_file` option) and would dequantise it at every load, and it cannot save what it
read: the tensors move into a model that never was quantised, which any task loads like every other folder.

The file is looked at alone: a tokenizer or a chat template beside it is no part of it, and its name decides nothing.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedlora.models.converted import converted
from fedlora.models.quiet import quiet_transformers
from fedlora.settings import SettingsError

SUFFIX = ".gguf"
MAGIC = b"GGUF"
INSTALL = "pip install 'fedlora[lm]'"
FORM = 1
"""Of what is written: another number for other bytes of the same file."""
READ_FROM_GGUF = ("quantization_config", "_model_name_or_path")
"""What transformers writes into the config of a model that it read from such a file, and no plain model has."""


def folder_of_gguf(file: Path) -> Path:
    """The plain folder of that file; SettingsError where it is not one, or not of a kind that transformers reads."""
    with file.open("rb") as opened:
        if opened.read(len(MAGIC)) != MAGIC:
            raise SettingsError(f"{file} is not a GGUF file: it does not begin with the four letters GGUF.")
    if importlib.util.find_spec("gguf") is None:
        raise SettingsError(f"reading {file.name} needs the package gguf, which is not installed: {INSTALL}")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("transformers", "gguf")]
    return converted(file, by=f"gguf {FORM}, {', '.join(versions)}", convert=write_plain)


def write_plain(file: Path, folder: Path) -> None:
    """The file's model in float32, its tokenizer and its chat template, as `save_pretrained` writes them."""
    with tempfile.TemporaryDirectory() as alone, quiet_transformers():
        link = Path(alone) / f"model{SUFFIX}"
        link.symlink_to(file.resolve())
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that no setting turns off
                read, loading = AutoModelForCausalLM.from_pretrained(
                    alone, gguf_file=str(link), dtype=torch.float32, output_loading_info=True, trust_remote_code=False
                )
            tokenizer = AutoTokenizer.from_pretrained(alone, gguf_file=str(link), trust_remote_code=False)
        except OSError:
            raise
        except Exception as error:  # of transformers, gguf or tokenizers: whatever a file that is not as they expect is
            reason = str(error).splitlines()[0] if str(error) else "no reason given"
            raise SettingsError(
                f"transformers cannot read {file.name} ({type(error).__name__}: {reason}); give the model as a folder "
                "with safetensors."
            ) from None
        require_all(loading["missing_keys"], file)
        never_quantised(read).save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def require_all(missing: Sequence[str], file: Path) -> None:
    """transformers fills what a file lacks with random numbers."""
    if missing:
        raise SettingsError(
            f"{file.name} lacks {len(missing)} weight(s) of the model that it describes, the first is {min(missing)}; "
            "give the whole model in one file (llama-gguf-split --merge joins the parts of one that was split)."
        )


def never_quantised(read: Any) -> Any:
    """A model of that class and with those very tensors (no copy), which saves itself."""
    for name in READ_FROM_GGUF:
        if hasattr(read.config, name):
            delattr(read.config, name)
    with torch.device("meta"):
        plain = type(read)(read.config)
    plain.load_state_dict(read.state_dict(), assign=True)
    plain.tie_weights()
    return plain
