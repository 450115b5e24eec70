"""A tiny Llama with grouped queries whose adapter a strategy has trained, and what the coordinator serves of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from fedlora.adapters import fold, initial_adapter, write
from fedlora.adapters.export import export_adapter
from fedlora.config import AdapterSettings, ModelSettings
from fedlora.lowrank import Product
from fedlora.models.loaded_model import LoadedModel, loaded_model
from fedlora.updates import Adapter, Factor, LowRank
from strategies.versions import total
from tests.chats import tokenizer_with
from tests.gguf_files import tiny_llama
from tests.strategies.examples import built, kind_of, updates_for

IDS = torch.tensor([[1, 2, 3, 4, 9, 11], [5, 6, 7, 8, 10, 12]])
SETTINGS = {"r": 3, "alpha": 4.5, "targets": ("q_proj", "k_proj", "v_proj", "down_proj")}


@dataclass(frozen=True)
class Trained:
    """What a run came to."""

    home: LoadedModel
    adapter: Adapter
    total: Mapping[str, Product]

    @torch.no_grad()
    def served(self) -> Tensor:
        """Logits of the coordinator's own model."""
        fold(self.home.model, self.total)
        write(self.home.model, self.adapter.to(torch.float32))
        return self.home.model(IDS).logits

    def export(self, folder: Path) -> Path:
        export_adapter(
            folder, self.adapter, total=self.total, base=self.home.named, model=self.home.model, task="causal-lm",
            labels=(), max_tokens=16,
        )  # fmt: skip
        return folder


def save_base(folder: Path) -> str:
    tokenizer = tokenizer_with()
    model = tiny_llama()
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def plain(base: str) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(base).eval()


def home_of(base: str, kind: str = "lora") -> LoadedModel:
    settings = AdapterSettings(kind=kind, **SETTINGS)
    return loaded_model(ModelSettings(id=base, task="causal-lm", max_tokens=16), settings, ())


def trained(base: str, strategy: str, *, rounds: int = 2, **options: object) -> Trained:
    """α/r is 1.5: a scale that is lost, or counted twice, is seen."""
    federated = built(strategy, **options)
    kind = kind_of(federated)
    home = home_of(base, kind)
    state = federated.init(initial_adapter(home.model, AdapterSettings(kind=kind, **SETTINGS), seed=0))
    for number in range(1, rounds + 1):
        updates = updates_for(federated, state, round_number=number, clients=3)
        state = federated.step(state, federated.combine(updates))
    adapter = with_its_own(state.adapter) if federated.traits.keeps else state.adapter
    return Trained(home, scaled_down(adapter), {name: small(product) for name, product in total(state).items()})


def with_its_own(adapter: Adapter) -> Adapter:
    """The shared A with a B as a client has learnt it for itself."""
    draw = torch.Generator().manual_seed(3)
    own = {name: torch.randn(tensor.shape, generator=draw) for name, tensor in adapter.tensors([Factor.B]).items()}
    return adapter.with_tensors(own)


def scaled_down(adapter: Adapter) -> Adapter:
    """So that the model's answers stay those of a model: the updates are of unit size."""
    return Adapter(
        {
            name: LowRank(layer.B_mr * 0.01, layer.A_rn, layer.scale, layer.R_rr)
            for name, layer in adapter.layers.items()
        },
        adapter.dense,
    )


def small(product: Product) -> Product:
    return Product(product.U_mp * 0.01, product.V_pn)


def with_ranks(base: str, ranks: tuple[int, ...]) -> Trained:
    """Every matrix of another rank, as devices of unlike size leave them."""
    home, draw = home_of(base), torch.Generator().manual_seed(0)
    layers = {}
    for number, (name, layer) in enumerate(sorted(home.template.layers.items())):
        (m, n), r = layer.shape, ranks[number % len(ranks)]
        B_mr, A_rn = torch.randn(m, r, generator=draw) / 20, torch.randn(r, n, generator=draw)
        layers[name] = LowRank(B_mr, A_rn, 1.5)
    return Trained(home, Adapter(layers), {})
