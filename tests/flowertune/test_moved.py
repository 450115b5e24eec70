"""A FlowerTune-shaped app moves in three lines, and its own evaluation still loads what it wrote."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM

from fedlora.adapters.uniform import RANKS
from tests.chats import save_chat_model
from tests.flowertune.moved import Ran, copied, run

IDS = torch.tensor([[3, 4, 5, 6, 7, 8]])
AVERAGING = "from flwr.serverapp.strategy import FedAvg"
IMPORT = "from flowertune_tiny.models import cosine_annealing"
LOADING = "    set_peft_model_state_dict(model, msg.content["
CLIENT = {IMPORT: f"from fedlora.flower import receive\n{IMPORT}", LOADING: "    receive(model, msg)  # msg.content["}
FEDSVD = {"strategy.py": {AVERAGING: "from fedlora.flower import FedSVD as FedAvg"}, "client_app.py": CLIENT}
SERVER = {
    "from flowertune_tiny.models": "from fedlora.flower import save\nfrom flowertune_tiny.models",
    "        fraction_ev": "        lora_alpha=config['model.lora.peft-lora-alpha'],\n        fraction_ev",
    "            set_peft_model_state_dict(model, arrays.to_torch_state_dict())\n": "",
    "            model.save_pretrained(": "            save(model, arrays, ",
}
FEDEX = {
    "strategy.py": {AVERAGING: "from fedlora.flower import FedExLoRA as FedAvg"},
    "client_app.py": CLIENT,
    "server_app.py": SERVER,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_chat_model(tmp_path_factory.mktemp("models") / "tiny-llama")


def logits(base: str, adapter: object) -> torch.Tensor:
    """As FlowerTune's eval.py loads it, but for bitsandbytes and a GPU."""
    model = AutoModelForCausalLM.from_pretrained(base)
    loaded = PeftModel.from_pretrained(model, adapter).eval()
    with torch.no_grad():
        return loaded(IDS).logits


def test_the_app_moves_in_three_changed_lines(tmp_path, base):
    place, changed = copied(tmp_path, FEDSVD)
    assert changed == 3
    ran = run(place, base)
    require_learnt(base, ran)
    ours = [record["bytes-up"] + record["bytes-down"] for record in ran.result.train_metrics_clientapp.values()]
    assert ran.counted == sum(ours) > 0, "its own count of bytes is ours"


def test_to_a_strategy_that_moves_the_base_it_takes_six(tmp_path, base):
    """What is saved is one adapter for the original base."""
    place, changed = copied(tmp_path, FEDEX)
    assert changed == 6
    ran = run(place, base)
    require_learnt(base, ran)
    config = LoraConfig.from_pretrained(str(ran.folder / "peft_2"))
    assert config.r in RANKS
    assert config.lora_alpha == config.r


def require_learnt(base: str, ran: Ran) -> None:
    assert sorted(ran.result.train_metrics_clientapp) == [1, 2]
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(base)(IDS).logits
    assert not torch.allclose(logits(base, ran.folder / "peft_2"), plain, atol=1e-5)


def test_a_client_that_was_not_changed_is_refused_with_the_line_to_write(tmp_path, base):
    """Its A has trained, and its B belongs to that A: an average would be wrong without a word."""
    place, _ = copied(tmp_path, {"strategy.py": FEDSVD["strategy.py"]})
    with pytest.raises(RuntimeError, match=r"(?s)has trained, and fedsvd trains.*fedlora\.flower\.receive"):
        run(place, base)


def test_a_client_that_would_not_add_the_residual_fails(tmp_path, base):
    """Of a base that has moved, A and B alone are another model: what reads them alone finds a type that it refuses."""
    place, _ = copied(tmp_path, {name: lines for name, lines in FEDEX.items() if name != "client_app.py"})
    with pytest.raises(RuntimeError, match=r"round 2: 0 of 3 clients"):
        run(place, base)
