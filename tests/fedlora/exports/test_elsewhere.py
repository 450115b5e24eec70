"""An adapter made here, in an empty folder of somebody else: another home, another place, nothing of the run left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.exported import distance
from tests.fedlora.exports.command import export
from tests.fedlora.exports.language_model import IDS, plain, save_base, trained
from tests.fedlora.exports.readers import added_by_llama_cpp, served_by
from tests.gguf_files import HEADS, KEYS, name_in_gguf

pytestmark = pytest.mark.slow

WAYS = """
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM
import fedlora

base = AutoModelForCausalLM.from_pretrained("tiny-llama")
models = {
    "PEFT": PeftModel.from_pretrained(base, "adapter"),
    "AutoPeftModel": AutoPeftModelForCausalLM.from_pretrained("adapter"),
    "fedlora.load": fedlora.load("adapter").model,
    "transformers, merged": AutoModelForCausalLM.from_pretrained("merged"),
}
with torch.no_grad():
    torch.save({name: model.eval()(IDS).logits for name, model in models.items()}, "logits.pt")
"""


def beside_again(name: str, rows_mn: torch.Tensor) -> torch.Tensor:
    """llama.cpp's order of rows undone."""
    heads = {"attn_q": HEADS, "attn_k": KEYS}.get(name.split(".")[-2])
    if heads is None:
        return rows_mn
    return rows_mn.reshape(heads, -1, 2, rows_mn.shape[1]).transpose(1, 2).reshape(rows_mn.shape)


@torch.no_grad()
def test_it_loads_by_every_documented_way_and_computes_what_the_run_served(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    base = save_base(here / "tiny-llama")
    run = trained(base, "fedex")
    served, untrained = run.served(), plain(base)(IDS).logits
    folder = run.export(here / "run" / "adapter")
    for kind in ("merged", "gguf"):
        export(folder, "--kind", kind, "--base", base, "--out", here / kind)
    there.mkdir()
    (tmp_path / "home").mkdir()
    for made in (folder, here / "merged", here / "gguf", here / "tiny-llama"):
        shutil.copytree(made, there / made.name)
    shutil.rmtree(here)
    theirs = {"HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"]}
    theirs["PYTHONPATH"] = str(Path(__file__).resolve().parents[3])
    script = WAYS.replace("IDS", f"torch.tensor({IDS.tolist()})")
    ran = subprocess.run([sys.executable, "-c", script], cwd=there, env=theirs, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    found = torch.load(there / "logits.pt")
    _, added = added_by_llama_cpp(there / "gguf" / "adapter.gguf")
    model = plain(str(there / "tiny-llama"))
    names = {name_in_gguf(f"{name}.weight"): name for name in run.adapter.layers}
    changes = {names[name]: beside_again(name, change) for name, change in added.items()}
    found["the GGUF reader"] = served_by(model, changes)(IDS).logits
    assert len(found) == 5
    for way, logits in found.items():
        assert distance(logits - untrained, served - untrained) <= 1e-3, way
