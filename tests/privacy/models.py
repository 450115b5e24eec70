"""Tiny models and data for the private engine's tests: everything small enough to loop over examples."""

from __future__ import annotations

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn import functional

from fedlora.adapters.inject import ADAPTER, CoredB, adapted_layers


class Block(nn.Module):
    """One residual two-layer block over (n, t, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.value(torch.tanh(self.query(x))))


class Classifier(nn.Module):
    """Embedding, two blocks with LoRA on query and value, mean pooling, a head. Frozen but for LoRA and the head."""

    def __init__(self, *, width: int = 12, classes: int = 3, vocabulary: int = 20) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"a": Block(width), "b": Block(width)})
        self.embed = nn.Embedding(vocabulary, width)
        self.head = nn.Linear(width, classes)
        self.gradient_checkpointing = self.reentrant = False
        self.recomputed = 0
        """How often a block ran in a backward pass."""

    def forward(self, tokens_nt: Tensor) -> Tensor:
        x = self.embed(tokens_nt)
        checkpoint = self.gradient_checkpointing and self.training  # as transformers does
        if checkpoint and self.reentrant and torch.is_grad_enabled():
            x.requires_grad_()
        for block in self.encoder.values():
            if checkpoint:
                x = torch.utils.checkpoint.checkpoint(self.counted, block, x, use_reentrant=self.reentrant)
            else:
                x = block(x)
        return self.head(x.mean(1))

    def counted(self, block: nn.Module, x: Tensor) -> Tensor:
        self.recomputed += int(torch._C._current_graph_task_id() != -1)
        return block(x)


def classifier(*, seed: int = 0, trains: str = "ABH", dtype: torch.dtype = torch.float32) -> Classifier:
    """LoRA with A and B both away from zero, so that both have gradients. `trains`: any of A, B, R, H(ead).

    With R there is a core between A and B, as in LoRA-XS.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Classifier()
        inject_adapter_in_model(LoraConfig(r=2, lora_alpha=4, target_modules=["query", "value"]), model.encoder)
        if "R" in trains:
            for _, layer in adapted_layers(model.encoder):
                layer.lora_B[ADAPTER] = CoredB(layer.lora_B[ADAPTER])
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.3)
            parameter.requires_grad_(
                ("lora_A" in name and "A" in trains)
                or ("lora_B" in name and ".core." not in name and "B" in trains)
                or (".core." in name and "R" in trains)
                or (name.startswith("head") and "H" in trains)
            )
    return model.to(dtype).train()


class Examples:
    """A labelled dataset of token rows; `loss(model)` is what the engine's step takes."""

    def __init__(self, count: int, *, seed: int = 1, tokens: int = 5) -> None:
        stream = torch.Generator().manual_seed(seed)
        self.tokens_nt = torch.randint(0, 20, (count, tokens), generator=stream)
        self.labels_n = torch.randint(0, 3, (count,), generator=stream)

    def loss(self, model: nn.Module):
        def loss_per_example(indices: Tensor) -> Tensor:
            return functional.cross_entropy(model(self.tokens_nt[indices]), self.labels_n[indices], reduction="none")

        return loss_per_example


def looped_clipped_sum(model: nn.Module, loss_per_example, indices: Tensor, clip: float) -> dict[nn.Parameter, Tensor]:
    """The slow clear twin of the whole engine: one backward per example, ordinary autograd."""
    trained = [p for p in model.parameters() if p.requires_grad]
    total = {p: torch.zeros_like(p, dtype=torch.float64) for p in trained}
    for index in indices:
        gradients = torch.autograd.grad(loss_per_example(index.view(1)).sum(), trained)
        norm = torch.cat([g.double().flatten() for g in gradients]).norm()
        for parameter, gradient in zip(trained, gradients, strict=True):
            total[parameter] += clip / max(float(norm), clip) * gradient.double()
    return total
