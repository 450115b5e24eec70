"""The exported folder is what the coordinator serves, by logits: plain transformers and PEFT on the original base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import AutoPeftModel, AutoPeftModelForCausalLM, PeftModel, PeftModelForCausalLM
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import nn
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForImageClassification, PreTrainedTokenizerFast

from fedlora.adapters import fold, initial_adapter, inject, write
from fedlora.adapters.dense import mark_dense
from fedlora.adapters.export import class_of, export_adapter
from fedlora.adapters.uniform import changes, uniform
from fedlora.config import AdapterSettings, ModelSettings
from fedlora.exports import about
from fedlora.exports.about import About
from fedlora.exports.folder import write_for_peft
from fedlora.exports.merged import settle_dense
from fedlora.exports.source import Source
from fedlora.models.loaded_model import loaded_model
from fedlora.models.named import NamedBase
from fedlora.updates import Adapter
from strategies.versions import total
from tests.chats import CHATML, tokenizer_with
from tests.exported import as_its_readme_says, distance, names_of_its_readme
from tests.fedlora.exports.readers import RefusedError, vllm
from tests.fedlora.tasks.image_classification import ImageClassification
from tests.fedlora.tasks.test_registry import VIT
from tests.gguf_files import tiny_llama
from tests.privacy.architectures import save
from tests.strategies.examples import built, updates_for
from tests.token_examples import logits

LABELS = ("bad", "good")
IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])


def logits_of_the_export(base: str, folder: Path) -> torch.Tensor:
    """As the folder's README does it."""
    model = PeftModel.from_pretrained(AutoModel.from_pretrained(base), str(folder)).eval()
    head = load_file(folder / "head.safetensors")
    hidden = model(input_ids=IDS, attention_mask=MASK).last_hidden_state
    mask = MASK.unsqueeze(-1)
    return (hidden * mask).sum(1) / mask.sum(1) @ head["weight"].T + head["bias"]


@pytest.mark.parametrize(
    ("strategy", "kind", "rounds"),
    [
        ("fedit", "lora", 1),
        ("fedsvd", "lora", 2),
        ("fedsb", "lora_xs", 2),
        ("fedex", "lora", 1),
        ("fedex", "lora", 6),
        ("flora", "lora", 3),
    ],
)
@torch.no_grad()
def test_logits_are_those_of_the_served_model(tiny_model, tmp_path, monkeypatch, strategy, kind, rounds):
    """α/r is 1.5: a residual's scale that is lost, or counted twice, is seen. After six rounds part of it is merged."""
    settings = AdapterSettings(r=2, alpha=3.0, kind=kind)
    home = loaded_model(ModelSettings(id=tiny_model, max_tokens=16), settings, LABELS)
    federated = built(strategy)
    state = federated.init(initial_adapter(home.model, settings, seed=0))
    for number in range(1, rounds + 1):
        updates = updates_for(federated, state, round_number=number, clients=3)
        state = federated.step(state, federated.combine(updates))
    fold(home.model, total(state))
    write(home.model, state.adapter.to(torch.float32))
    served = logits(home.model, IDS, MASK)
    export_adapter(
        tmp_path, state.adapter, total=total(state), base=home.named, model=home.model,
        task="sequence-classification", labels=LABELS, max_tokens=16,
    )  # fmt: skip
    exported = logits_of_the_export(tiny_model, tmp_path)
    assert_close(exported, served, atol=2e-5, rtol=2e-5)
    assert served.std() > 1e-3
    monkeypatch.chdir(Path(tiny_model).parent)
    loaded = AutoPeftModel.from_pretrained(str(tmp_path)).eval()
    plain = PeftModel.from_pretrained(AutoModel.from_pretrained(tiny_model), str(tmp_path)).eval()
    assert torch.equal(loaded(IDS, MASK).last_hidden_state, plain(IDS, MASK).last_hidden_state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_readme_s_lines_compute_the_served_logits_whatever_the_base_s_tokenizer_and_precision(tmp_path, dtype):
    """The checkpoint may be bfloat16; the tokenizer pads left, has no padding token, and gives token types besides."""
    base = save("bert", tmp_path / "base", dtype=dtype)
    words = {f"word{number}": number for number in range(60)}
    backend = Tokenizer(WordLevel(words, unk_token="word1"))
    backend.pre_tokenizer = Whitespace()
    backend.post_processor = TemplateProcessing(
        single="$A:1", special_tokens=[]
    )  # token types 1, as XLNet's has others
    PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="word0", padding_side="left",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(base)  # fmt: skip
    settings = AdapterSettings(r=2, alpha=3.0)
    home = loaded_model(ModelSettings(id=base, max_tokens=16), settings, LABELS)
    federated = built("fedit")
    state = federated.init(initial_adapter(home.model, settings, seed=0))
    updates = updates_for(federated, state, round_number=1, clients=3)
    adapter = federated.step(state, federated.combine(updates)).adapter.to(torch.float32)
    write(home.model, adapter)
    export_adapter(
        tmp_path / "adapter", adapter, total={}, base=home.named, model=home.model, task="sequence-classification",
        labels=LABELS, max_tokens=16,
    )  # fmt: skip
    pasted = as_its_readme_says(tmp_path / "adapter", ["word3 word9", "word5 word6 word7 word8 word2"], base=base)
    ids = torch.tensor([[3, 9, 0, 0, 0], [5, 6, 7, 8, 2]])
    served = logits(home.model.eval(), ids, torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]])).detach()
    assert distance(pasted.logits_nc, served) <= 1e-6
    assert distance(pasted.without_adapter_nc, served) > 1e-3


@pytest.mark.parametrize(("template", "prompt"), [(CHATML, "<s>user\nhi?<e>\n<s>assistant\n"), (None, "hi?")])
@torch.no_grad()
def test_the_readme_of_a_causal_language_model_answers_a_question_as_the_served_model_does(
    tmp_path, monkeypatch, template, prompt
):
    """By the chat template where the tokenizer has one; and PEFT's own class for the task loads the folder."""
    tokenizer = tokenizer_with(template)
    base = save_llama(tmp_path / "base", tokenizer)
    settings = AdapterSettings(r=2, alpha=3.0)
    home = loaded_model(ModelSettings(id=base, task="causal-lm", max_tokens=16), settings, ())
    federated = built("fedit")
    state = federated.init(initial_adapter(home.model, settings, seed=0))
    updates = updates_for(federated, state, round_number=1, clients=3)
    adapter = federated.step(state, federated.combine(updates)).adapter.to(torch.float32)
    folder = tmp_path / "adapter"
    export_adapter(
        folder, adapter, total={}, base=home.named, model=home.model, task="causal-lm", labels=(), max_tokens=16
    )  # fmt: skip
    assert not (folder / "head.safetensors").exists()
    names, printed = names_of_its_readme(folder, base=base, question="hi?")
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    assert torch.equal(names["ids"], ids)
    untrained = home.model(ids).logits
    write(home.model, adapter)
    served = home.model(ids).logits
    assert distance(names["model"](input_ids=ids).logits, served) <= 1e-6
    assert distance(untrained, served) > 1e-2
    answer = home.model.generate(input_ids=ids, max_new_tokens=100, do_sample=False)
    assert torch.equal(names["answer"], answer)
    assert printed == tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True).partition("\n")[0]
    monkeypatch.chdir(tmp_path)
    loaded = AutoPeftModelForCausalLM.from_pretrained(str(folder)).eval()
    assert isinstance(loaded, PeftModelForCausalLM)
    assert torch.equal(loaded(input_ids=ids).logits, names["model"](input_ids=ids).logits)


def save_llama(folder: Path, tokenizer: PreTrainedTokenizerFast) -> str:
    """The tiny Llama, with as many words as the tokenizer has."""
    model = tiny_llama()
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def pictures(tmp_path, monkeypatch) -> tuple[nn.Module, Adapter, About]:
    """A model whose own classifier trained whole, of a task that no export has heard of; it serves the adapter."""
    monkeypatch.setattr(about, "task_named", lambda name: ImageClassification())
    monkeypatch.chdir(tmp_path)
    model = AutoModelForImageClassification.from_config(VIT).eval()
    model.save_pretrained(tmp_path / "base")
    mark_dense(model, ImageClassification.dense)
    settings = AdapterSettings(r=2, alpha=3.0)
    inject(model, settings)
    start = initial_adapter(model, settings, seed=0)
    adapter = start.with_tensors({name: tensor + 0.1 for name, tensor in start.tensors().items()})
    write(model, adapter)
    found = About(
        "image-classification", ("a", "b", "c"), 16, NamedBase("./base", ""), architecture=class_of(model)
    )  # fmt: skip
    return model, adapter, found


@torch.no_grad()
def test_a_task_of_another_kind_writes_its_own_lines_and_its_own_module(pictures, tmp_path):
    """Nothing in the export knows a task's name: one that is dropped in as a file is exported by what it says."""
    model, adapter, of_it = pictures
    export_adapter(
        tmp_path / "adapter", adapter, total={}, base=of_it.base, model=model, task=of_it.task, labels=of_it.labels,
        max_tokens=16,
    )  # fmt: skip
    assert (tmp_path / "adapter/classifier.safetensors").exists()
    names, _ = names_of_its_readme(tmp_path / "adapter", base="./base")
    assert distance(names["logits"], model(pixel_values=names["pixels"]).logits) <= 1e-6
    assert vllm(tmp_path / "adapter")


@torch.no_grad()
def test_for_peft_what_trained_whole_is_in_the_folder_s_own_tensors_and_never_beside_them_too(pictures, tmp_path):
    """Where the model has such a module; PEFT's Auto class loads all of it, and a server refuses the folder."""
    model, adapter, of_it = pictures
    write_for_peft(tmp_path / "adapter", uniform(changes(adapter, {})), adapter.dense, of_it)
    assert not (tmp_path / "adapter/classifier.safetensors").exists()
    pixels = torch.ones(1, 3, 16, 16)
    served = model(pixel_values=pixels).logits
    loaded = AutoPeftModel.from_pretrained(str(tmp_path / "adapter")).eval()
    assert distance(loaded(pixel_values=pixels).logits, served) <= 1e-6
    names, _ = names_of_its_readme(tmp_path / "adapter", base="./base")
    assert distance(names["logits"], served) <= 1e-6
    with pytest.raises(RefusedError, match="modules_to_save"):
        vllm(tmp_path / "adapter")


def test_merged_such_a_module_is_the_model_s_own(pictures):
    _, adapter, of_it = pictures
    plain = AutoModelForImageClassification.from_pretrained("./base")
    source = Source("run", {}, adapter.dense, of_it, 0.0, ModelSettings())
    assert settle_dense(plain, source) == {}
    assert torch.equal(plain.classifier.weight, adapter.dense["classifier/weight"])
