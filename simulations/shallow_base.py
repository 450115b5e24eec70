"""A smaller base for many runs: the first layers of the packaged encoder, without dropout, saved as a folder.

    python -m simulations.shallow_base --layers 2 --out runs/base-2

A run on two of six layers costs a third. What is compared on it holds for it, and says so.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from transformers import AutoConfig, AutoModel, AutoTokenizer

from fedlora.models.base import locate, quiet_transformers
from fedlora.settings import SettingsError

DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob")


def save_shallow(source: str, out: Path, *, layers: int) -> None:
    """Save the first `layers` transformer layers of `source` with its tokenizer; SettingsError if it has fewer."""
    with quiet_transformers():
        config = AutoConfig.from_pretrained(source)
        if not 1 <= layers <= config.num_hidden_layers:
            raise SettingsError(f"--layers {layers}: {source} has 1 to {config.num_hidden_layers} layers.")
        model = AutoModel.from_pretrained(source, num_hidden_layers=layers, **dict.fromkeys(DROPOUTS, 0.0))
        model.save_pretrained(out)
        AutoTokenizer.from_pretrained(source).save_pretrained(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=save_shallow.__doc__)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/base-2"))
    given = parser.parse_args()
    save_shallow(locate("demo"), given.out, layers=given.layers)
