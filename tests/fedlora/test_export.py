"""The exported folder is what the coordinator serves, by logits: plain transformers and PEFT on the original base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import AutoPeftModel, PeftModel
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModel

from fedlora.adapters import fold, initial_adapter, write
from fedlora.config import AdapterSettings, ModelSettings
from fedlora.export import export_adapter
from fedlora.resident import resident
from strategies.versions import total
from tests.strategies.examples import built, updates_for

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
    home = resident(ModelSettings(id=tiny_model, max_tokens=16), settings, LABELS)
    federated = built(strategy)
    state = federated.init(initial_adapter(home.model, settings, seed=0))
    for number in range(1, rounds + 1):
        updates = updates_for(federated, state, round_number=number, clients=3)
        state = federated.step(state, federated.combine(updates))
    fold(home.model, total(state))
    write(home.model, state.adapter.to(torch.float32))
    served = home.model(IDS, MASK)
    export_adapter(
        tmp_path, state.adapter, total=total(state), base=tiny_model, encoder=type(home.model.encoder), labels=LABELS,
        max_tokens=16,
    )  # fmt: skip
    exported = logits_of_the_export(tiny_model, tmp_path)
    assert_close(exported, served, atol=2e-5, rtol=2e-5)
    assert served.std() > 1e-3
    loaded = AutoPeftModel.from_pretrained(str(tmp_path)).eval()
    plain = PeftModel.from_pretrained(AutoModel.from_pretrained(tiny_model), str(tmp_path)).eval()
    assert torch.equal(loaded(IDS, MASK).last_hidden_state, plain(IDS, MASK).last_hidden_state)
