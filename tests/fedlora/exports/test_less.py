"""`fedlora export --scale`: W0 + λ ΔW in every form, and none of the whole's figures with it."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM

from fedlora.exports.made import Made
from fedlora.exports.source import source_of
from fedlora.gate.verdict import Check, Gate, hash_of, now
from fedlora.protocol.task import Evaluation
from fedlora.settings import SettingsError
from tests.exported import distance
from tests.fedlora.exports.command import export
from tests.fedlora.exports.language_model import IDS, plain, save_base, trained
from tests.fedlora.exports.readers import READERS, added_by_llama_cpp, served_by


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return save_base(tmp_path_factory.mktemp("base") / "tiny-llama")


def part_of(base: str, run, scale: float) -> torch.Tensor:
    """Logits of the base with `scale` times what the run's own model adds to each of its matrices, added by hand."""
    run.served()
    model, known = plain(base), dict(run.home.model.named_modules())
    with torch.no_grad():
        for name in run.adapter.layers:
            layer, weight = known[name], model.get_submodule(name).weight
            (factor,) = layer.scaling.values()
            learnt = layer.base_layer.weight + factor * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
            weight += scale * (learnt - weight)
        return model(IDS).logits


@pytest.mark.parametrize("strategy", ["fedit", "fedex"])
@torch.no_grad()
def test_a_part_is_that_part_of_every_matrix_in_every_form_and_a_part_of_a_part_too(base, tmp_path, strategy):
    """FedEx has added to the base as well: a part of that is taken back."""
    run = trained(base, strategy)
    whole = run.export(tmp_path / "adapter")
    untrained = plain(base)(IDS).logits
    for folder, words, scale in (("peft", (), 0.25), ("merged", ("--kind", "merged", "--base", base), 0.25)):
        export(whole, *words, "--scale", scale, "--out", tmp_path / folder)
    expected = part_of(base, run, 0.25)
    assert distance(run.served() - untrained, expected - untrained) > 1
    found = {
        "peft": PeftModel.from_pretrained(plain(base), tmp_path / "peft")(IDS).logits,
        "merged": AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()(IDS).logits,
        **{name: served_by(plain(base), read(tmp_path / "peft"))(IDS).logits for name, read in READERS.items()},
    }
    for name, logits in found.items():
        assert distance(logits - untrained, expected - untrained) <= 1e-4, name
    export(whole, "--kind", "gguf", "--scale", 0.25, "--base", base, "--out", tmp_path / "gguf")
    export(whole, "--kind", "gguf", "--base", base, "--out", tmp_path / "whole")
    (_, part), (_, all_) = (added_by_llama_cpp(tmp_path / name / "adapter.gguf") for name in ("gguf", "whole"))
    assert all(torch.allclose(part[name], 0.25 * all_[name], atol=1e-7) for name in all_)
    export(tmp_path / "peft", "--scale", 0.5, "--out", tmp_path / "again")
    eighth = PeftModel.from_pretrained(plain(base), tmp_path / "again")(IDS).logits
    assert distance(eighth - untrained, part_of(base, run, 0.125) - untrained) <= 1e-4
    assert source_of(tmp_path / "again").about.scale == 0.125


def test_neither_the_run_s_figures_nor_that_the_gate_let_the_whole_pass_go_with_a_part(base, tmp_path):
    folder = trained(base, "fedit").export(tmp_path / "adapter")
    measured = Evaluation(loss=0.5, metrics={"accuracy": 0.8}, examples=9)
    made = Made(name="wards", strategy="fedit", rounds=2, clients="2-4", bytes_up=1, bytes_down=2, evaluation=measured)
    kept = json.loads((folder / "fedlora.json").read_text())
    (folder / "fedlora.json").write_text(json.dumps({**kept, "made": made.model_dump(mode="json")}))
    Gate(adapter=hash_of(folder), when=now(), checks=(Check(name="base", passed=True, said=""),)).write(folder)
    heads = {}
    for scale in (1, 0.5):
        export(folder, "--scale", scale, "--out", tmp_path / str(scale))
        text = (tmp_path / str(scale) / "README.md").read_text()
        heads[scale] = yaml.safe_load(text.split("---\n")[1])
        assert ("It holds 0.5 of what the run learnt" in text) == (scale != 1)
    assert {"model-index", "metrics", "gate"} <= heads[1].keys()
    assert not {"model-index", "metrics", "gate"} & heads[0.5].keys()
    assert heads[0.5]["federated"] == heads[1]["federated"]


def test_a_part_of_what_is_held_is_held_and_what_was_gone_past_stays_on_its_card(base, tmp_path):
    folder = trained(base, "fedit").export(tmp_path / "adapter")
    Gate(adapter=hash_of(folder), when=now(), checks=(Check(name="base", passed=False, said=""),)).write(folder)
    with pytest.raises(SettingsError, match=r"the gate holds"):
        export(folder, "--scale", 0.5, "--out", tmp_path / "out")
    export(folder, "--scale", 0.5, "--out", tmp_path / "out", "--override", "to try a half")
    head = yaml.safe_load((tmp_path / "out" / "README.md").read_text().split("---\n")[1])
    assert (head["gate"]["passed"], head["gate"]["overrides"][0]["why"]) == (False, "to try a half")


@pytest.mark.parametrize("scale", [0, -0.5, 1.5, "nan"])
def test_more_than_all_and_nothing_at_all_are_refused(base, tmp_path, scale):
    folder = trained(base, "fedit").export(tmp_path / "adapter")
    with pytest.raises(SettingsError, match=r"--scale .*: it is above 0 .* and at most 1"):
        export(folder, "--scale", scale, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
