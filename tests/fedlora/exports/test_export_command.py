"""`fedlora export`: it writes the served model, from a run's folder and from one that was carried elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

from fedlora.exports.source import source_of
from fedlora.settings import SettingsError
from tests.chats import chat_recipe, save_chat_model, save_questions
from tests.exported import as_its_readme_says, distance, lines_of
from tests.federations import CLIENTS, run, tiny_recipe
from tests.fedlora.exports.command import export
from tests.fedlora.exports.language_model import IDS, plain, save_base, trained, with_ranks
from tests.fedlora.exports.readers import READERS, served_by
from tests.privacy.architectures import save

TEXTS = ("great crew", "my bag lost the flight", "late bag")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return save_base(tmp_path_factory.mktemp("base") / "tiny-llama")


def run_as_pasted(folder: Path, monkeypatch) -> dict:
    monkeypatch.chdir(folder)
    names: dict = {}
    exec(lines_of(folder), names)  # noqa: S102 - the README's own lines are what is tested
    return names


@pytest.mark.parametrize("strategy", ["fedit", "fedex", "fedsb"])
@torch.no_grad()
def test_a_merged_model_is_the_served_one_and_its_readme_s_lines_load_it_alone(base, tmp_path, monkeypatch, strategy):
    result = trained(base, strategy)
    export(result.export(tmp_path / "adapter"), "--kind", "merged", "--out", tmp_path / "out", "--base", base)
    served, untrained = result.served(), plain(base)(IDS).logits
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert distance(found(IDS).logits - untrained, served - untrained) <= 1e-4
    names = run_as_pasted(tmp_path / "out", monkeypatch)
    assert torch.equal(names["model"](IDS).logits, found(IDS).logits)
    assert "peft" not in lines_of(tmp_path / "out").lower()


@torch.no_grad()
def test_a_merged_model_is_in_the_precision_that_was_asked_for_and_what_that_costs_is_said(base, tmp_path):
    folder = with_ranks(base, (2,)).export(tmp_path / "adapter")
    said = export(folder, "--kind", "merged", "--out", tmp_path / "out", "--base", base, "--dtype", "bfloat16")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    about = json.loads((tmp_path / "out" / "fedlora.json").read_text())
    assert (about["dtype"], 0 < about["rounding"] < 1) == ("bfloat16", True)
    assert f"off by {about['rounding']:.2g} of what the run changed" in said
    assert f"by {about['rounding']:.2g} of what was learnt" in (tmp_path / "out" / "README.md").read_text()


def test_a_quantised_base_is_never_merged_into(base, tmp_path):
    folder = with_ranks(base, (2,)).export(tmp_path / "adapter")
    quantised = shutil.copytree(base, tmp_path / "four-bits")
    config = json.loads((quantised / "config.json").read_text())
    quantization = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (quantised / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
    with pytest.raises(
        SettingsError, match=r"is a quantised model: merging would round .* --base, or export the adapt"
    ):
        export(folder, "--kind", "merged", "--out", tmp_path / "out", "--base", quantised)
    assert not (tmp_path / "out").exists()


def test_another_base_is_refused_and_one_that_is_not_here_is_asked_for(base, tmp_path, monkeypatch):
    folder = with_ranks(base, (2,)).export(tmp_path / "adapter")
    other = shutil.copytree(base, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SettingsError, match=r"is not the base that this adapter was trained on: its fingerprint is"):
        export(folder, "--kind", "merged", "--out", tmp_path / "out", "--base", other)
    monkeypatch.chdir(tmp_path)
    for kind in ("merged", "gguf"):
        with pytest.raises(SettingsError, match=r"Give the base model's path with --base\. It is a local folder"):
            export(folder, "--kind", kind, "--out", tmp_path / "out")


def test_an_asked_rank_leaves_out_the_least_and_says_how_much(base, tmp_path):
    folder = with_ranks(base, (5,)).export(tmp_path / "adapter")
    said = export(folder, "--rank", 2, "--out", tmp_path / "out")
    about = json.loads((tmp_path / "out" / "fedlora.json").read_text())
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] == 2
    assert 0 < about["left_out"] < 1
    assert f"rank 2 leaves out {about['left_out']:.2g} of what was learnt" in said
    assert f"{about['left_out']:.2g} of it is left out" in " ".join(
        (tmp_path / "out" / "README.md").read_text().split()
    )
    again = export(tmp_path / "out", "--rank", 16, "--out", tmp_path / "again")
    assert f"rank 16 leaves out {about['left_out']:.2g}" in again


@torch.no_grad()
def test_of_a_strategy_with_a_model_for_each_site_there_is_a_folder_a_site_and_one_server_for_all(base, tmp_path):
    sites = {name: with_ranks(base, ranks) for name, ranks in (("north", (1,)), ("south", (9,)))}
    for name, result in sites.items():
        result.export(tmp_path / "run" / "adapters" / name)
    said = export(tmp_path / "run", "--base", base)
    folders = {name: tmp_path / "run" / "exports" / "peft" / name for name in sites}
    assert f"--max-lora-rank 16 --lora-modules north={folders['north']} south={folders['south']}" in said
    for name, result in sites.items():
        served = result.served()
        for read in READERS.values():
            assert distance(served_by(plain(base), read(folders[name]))(IDS).logits, served) <= 1e-4


@pytest.mark.parametrize("strategy", ["fedsa", "fedex"])
def test_a_run_of_a_language_model_is_exported_in_every_kind_by_its_folder_alone(tmp_path, strategy):
    """FedSA has an adapter for each of its four sites."""
    recipe = chat_recipe(
        save_chat_model(tmp_path / "model"), save_questions(tmp_path / "questions.jsonl"), f"strategy.name={strategy}"
    )
    run(recipe, tmp_path / "run")
    sites = CLIENTS if strategy == "fedsa" else ("",)
    for kind, file in (("peft", "adapter_config.json"), ("merged", "model.safetensors"), ("gguf", "adapter.gguf")):
        export(tmp_path / "run", "--kind", kind)
        folder = tmp_path / "run" / "exports" / kind
        assert {str(found.parent.relative_to(folder)) for found in folder.rglob(file)} == {
            site or "." for site in sites
        }
    ids = torch.tensor([[5, 6, 7, 8]])
    for site in sites:
        adapter = tmp_path / "run" / "exports" / "peft" / site
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "exports" / "merged" / site).eval()
        with torch.no_grad():
            loaded = PeftModel.from_pretrained(plain(recipe.model.id), str(adapter)).eval()(ids).logits
            assert torch.allclose(merged(ids).logits, loaded, atol=1e-5)
            assert not torch.allclose(loaded, plain(recipe.model.id)(ids).logits, atol=1e-5)


def test_a_recipe_that_lies_above_a_folder_by_chance_says_nothing_of_its_base(base, tmp_path):
    """Neither one of another base nor a file that is no recipe."""
    folder = with_ranks(base, (2,)).export(tmp_path / "carried" / "adapter")
    (tmp_path / "carried" / "config.yaml").write_text("services: {web: 1}\n")
    (tmp_path / "config.yaml").write_text("model: {id: demo}\n")
    assert source_of(folder).model.id == "./tiny-llama"
    (tmp_path / "carried" / "config.yaml").write_text(f"model: {{id: {base}, task: causal-lm}}\n")
    assert source_of(folder).model.id == base


def test_a_run_s_folder_of_an_earlier_version_is_exported_as_peft_reads_it(tiny_model, messages, tmp_path):
    """With patterns of ranks and scales, a fraction as alpha, and neither task nor base in fedlora.json."""
    recipe = tiny_recipe(tiny_model, messages, "rounds.count=1", "strategy.name=fedit")
    run(recipe, tmp_path / "run")
    folder = tmp_path / "run" / "adapter"
    as_before(folder, tiny_model)
    before = answered(PeftModel.from_pretrained(AutoModel.from_pretrained(tiny_model), str(folder)))
    export(tmp_path / "run", "--out", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (8, 8, {})
    after = answered(PeftModel.from_pretrained(AutoModel.from_pretrained(tiny_model), str(tmp_path / "out")))
    assert torch.allclose(after, before, atol=1e-6)
    assert "It cost 3.0." in (tmp_path / "out" / "README.md").read_text()
    export(tmp_path / "run", "--kind", "merged", "--out", tmp_path / "merged")
    merged = answered(AutoModel.from_pretrained(tmp_path / "merged"))
    assert torch.allclose(merged, before, atol=1e-5)


@torch.no_grad()
def answered(model: torch.nn.Module) -> torch.Tensor:
    return model.eval()(torch.tensor([[2, 5, 8, 3]])).last_hidden_state


def as_before(folder: Path, base: str) -> None:
    """The folder as version 0.2.0 wrote it, with unequal ranks."""
    tensors = load_file(folder / "adapter_model.safetensors")
    names = sorted(name.split("base_model.model.")[1].split(".lora_A")[0] for name in tensors if "lora_A" in name)
    ranks = {name: 1 + number % 2 for number, name in enumerate(names)}
    draw = torch.Generator().manual_seed(0)
    LoraConfig(
        r=2, lora_alpha=4.5, target_modules=names, base_model_name_or_path=base,
        rank_pattern={name: 1 for name, rank in ranks.items() if rank == 1},
        alpha_pattern={name: 2.25 for name, rank in ranks.items() if rank == 1},
        auto_mapping={"base_model_class": "BertModel", "parent_library": "transformers.models.bert.modeling_bert"},
    ).save_pretrained(str(folder))  # fmt: skip
    old = {}
    for name, rank in ranks.items():
        for factor, shape in (("lora_A", (rank, 16)), ("lora_B", (16, rank))):
            old[f"base_model.model.{name}.{factor}.weight"] = torch.randn(shape, generator=draw) / 4
    save_file(old, folder / "adapter_model.safetensors")
    about = {"labels": ["bad", "good"], "pooling": "mean", "max_tokens": 16}
    (folder / "fedlora.json").write_text(json.dumps(about))
    (folder / "README.md").write_text("# A fine-tuned adapter\n\n## Privacy\n\nIt cost 3.0.\n")


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_a_head_stays_beside_what_is_merged_and_the_readme_adds_it(architecture, messages, tmp_path, monkeypatch):
    """GPT-2's layers hold their matrices the other way round."""
    recipe = tiny_recipe(save(architecture, tmp_path / "base"), messages, "rounds.count=1", "strategy.name=fedit")
    run(recipe, tmp_path / "run")
    export(tmp_path / "run", "--kind", "merged")
    out = tmp_path / "run" / "exports" / "merged"
    asked = as_its_readme_says(tmp_path / "run" / "adapter", ["word2 word3", "word9"], base=recipe.model.id)
    lines = lines_of(out)
    monkeypatch.chdir(out)
    names: dict = {}
    exec(lines.replace(lines.split("\n\n")[1], f"texts = {['word2 word3', 'word9']!r}"), names)  # noqa: S102 - as above
    assert distance(names["logits"], asked.logits_nc) <= 1e-5
    assert not any("head" in name for name in load_file(out / "model.safetensors"))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--kind", "merged", "--rank", "4"], r"--rank is an adapter's; a merged model has none\. Leave it out"),
        (["--dtype", "float16"], r"--dtype is for merged and gguf; a PEFT adapter is always float32\. Leave it out"),
        (["--kind", "gguf", "--dtype", "bfloat16"], r"--dtype bfloat16 is for merged; a GGUF adapter is float32 or"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_way_out(tmp_path, asked, said):
    with pytest.raises(SettingsError, match=said):
        export(tmp_path, *asked)


def test_what_cannot_be_exported_is_refused_before_anything_is_written(base, tiny_model, messages, tmp_path):
    with pytest.raises(SettingsError, match=r"holds no adapter: give a run's folder"):
        export(tmp_path / "nothing")
    (tmp_path / "stopped").mkdir()
    (tmp_path / "stopped" / "config.yaml").write_text("rounds: {count: 3}\n")
    with pytest.raises(SettingsError, match=r"holds a run without an adapter yet.*--out .*stopped --resume"):
        export(tmp_path / "stopped")
    folder = with_ranks(base, (2,)).export(tmp_path / "adapter")
    with pytest.raises(SettingsError, match=r"adapter is there already; remove it, or give another --out"):
        export(folder, "--out", folder)
    run(tiny_recipe(tiny_model, messages, "rounds.count=1", "strategy.name=fedit"), tmp_path / "run")
    with pytest.raises(SettingsError, match=r"do not compute the task sequence-classification; export it with --kind"):
        export(tmp_path / "run", "--kind", "gguf")
    (folder / "adapter_model.safetensors").write_bytes(b"half")
    with pytest.raises(SettingsError, match=r"is not an adapter's folder as fedlora writes one \(SafetensorError"):
        export(folder, "--out", tmp_path / "out")
    assert not (tmp_path / "run" / "exports").exists()
    assert not (tmp_path / "out").exists()


def test_an_architecture_whose_gguf_file_nobody_has_read_back_is_left_to_llama_cpp(base, tmp_path):
    folder = with_ranks(base, (2,)).export(tmp_path / "adapter")
    other = shutil.copytree(base, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "model_type": "phi3", "pad_token_id": 0}))
    with pytest.raises(
        SettingsError, match=r"of a phi3 model is not written here, only of llama, mistral, qwen2\. Exp"
    ):
        export(folder, "--kind", "gguf", "--out", tmp_path / "out", "--base", other)
