"""The exported folder is what the coordinator serves, by logits: plain transformers and PEFT on the original base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import AutoPeftModel, PeftModel
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch.testing import assert_close
from transformers import AutoModel, PreTrainedTokenizerFast

from fedlora.adapters import fold, initial_adapter, write
from fedlora.adapters.export import export_adapter
from fedlora.config import AdapterSettings, ModelSettings
from fedlora.models.loaded_model import loaded_model
from strategies.versions import total
from tests.exported import as_its_readme_says, distance
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
def test_logits_are_those_of_the_served_model(tiny_model, tmp_path, strategy, kind, rounds):
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
        tmp_path, state.adapter, total=total(state), base=tiny_model, model=home.model, labels=LABELS,
        max_tokens=16,
    )  # fmt: skip
    exported = logits_of_the_export(tiny_model, tmp_path)
    assert_close(exported, served, atol=2e-5, rtol=2e-5)
    assert served.std() > 1e-3
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
    export_adapter(tmp_path / "adapter", adapter, total={}, base=base, model=home.model, labels=LABELS, max_tokens=16)
    pasted = as_its_readme_says(tmp_path / "adapter", ["word3 word9", "word5 word6 word7 word8 word2"])
    ids = torch.tensor([[3, 9, 0, 0, 0], [5, 6, 7, 8, 2]])
    served = logits(home.model.eval(), ids, torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]])).detach()
    assert distance(pasted.logits_nc, served) <= 1e-6
    assert distance(pasted.without_adapter_nc, served) > 1e-3
