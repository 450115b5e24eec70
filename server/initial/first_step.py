"""LoRA-SB's start of Fed-SB: B, A and R from the first full fine-tuning step, on public data of the coordinator.

Ponkshe et al., "Initialization using Update Approximation is a Silver Bullet for Extremely Efficient Low-Rank
Fine-Tuning", arXiv 2411.19557.

    G = Σ_i ∂ℓ_i/∂W at W0,   D = -η sign(G),   U S Vᵀ = SVD_r(D),   B = U_r,   A = V_rᵀ,   R = S_r / s

D is AdamW's first step; s B R A is its best approximation of rank r. So round 1 does not start from the base itself.
Done once, before round 1, and stored: a resumed run reads B and A from its checkpoint, because the spectrum of a sign
matrix is flat and another machine may find another subspace. The published code takes G from the clients' own data in
clear; here it is taken from examples that the recipe declares public, or by `server.initial.client_gradients`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fedlora.adapters import write
from fedlora.adapters.inject import adapted_layers
from fedlora.config import PublicDataSettings, Recipe
from fedlora.data.chosen_columns import columns_for
from fedlora.data.examples import Examples, encoded
from fedlora.data.rows import read_whole
from fedlora.devices.draws import draws_apart
from fedlora.models.base import autocast, load_processor
from fedlora.models.loaded_model import LoadedModel
from fedlora.models.reference import referred
from fedlora.randomness import chooser, seed_of
from fedlora.settings import SettingsError
from fedlora.updates import Adapter, LowRank

EXACT_SIDE = 1024
"""Up to this smaller side the SVD is dense; above it, randomised with oversampling and power iterations."""
OVERSAMPLING, POWER_ITERATIONS = 10, 8


def first_step(home: LoadedModel, adapter: Adapter, recipe: Recipe, labels: tuple[str, ...]) -> Adapter:
    """`adapter` (its R zero) with B, A and R from the gradient on `adapter.public`."""
    public = recipe.adapter.public
    assert public is not None  # the recipe's own check
    write(home.model, adapter)
    examples = public_examples(public, recipe, labels)
    return started_from(gradient_sum(home.model, examples, recipe), adapter, recipe)


def started_from(gradients: Mapping[str, Tensor], adapter: Adapter, recipe: Recipe) -> Adapter:
    """`adapter` with the best approximation of AdamW's first step along these gradients; η is train.lr over all steps.

    The sign makes their scale irrelevant: a sum, a mean and a weighted mean of means start the same run.
    """
    step = recipe.train.lr / (recipe.rounds.count * recipe.train.counted_steps)
    layers = {
        name: stepped(layer, -step * gradients[name].sign(), seed=seed_of(recipe.seed, "first-step", name))
        for name, layer in adapter.layers.items()
    }
    return replace(adapter, layers=layers)


def public_examples(public: PublicDataSettings, recipe: Recipe, labels: tuple[str, ...]) -> Examples:
    """A seeded choice of the public rows; SettingsError when there are none."""
    rows = [
        row
        for row in read_whole(public.source, columns_for(public, recipe.model.task, source=public.source)).rows
        if set(row.classes) <= set(labels) and public.client in (None, row.client)
    ]
    if not rows:
        raise SettingsError(
            f"adapter.public has no row with one of the run's classes ({', '.join(labels)})"
            + (f" of client {public.client!r}" if public.client else "")
            + "; check source, label and client."
        )
    chosen = chooser(recipe.seed, "public").sample(rows, min(public.examples, len(rows)))
    return encoded(chosen, labels, load_processor(recipe.model), on=recipe.model)


def gradient_sum(model: nn.Module, examples: Examples, recipe: Recipe) -> dict[str, Tensor]:
    """Σ_i ∂ℓ_i/∂W0 (m, n) of every adapted matrix; the model is left as it was."""
    bases = {name: layer.get_base_layer() for name, layer in adapted_layers(model)}
    size = recipe.train.microbatch_size or recipe.train.batch_size
    examples = referred(model, examples, on=recipe.model, at_once=size)
    model.eval()
    model.requires_grad_(False)
    for base in bases.values():
        base.weight.requires_grad_(True)
    try:
        for batch in examples.evaluation_batches(size, device=recipe.model.device):
            with autocast(recipe.model):
                total = examples.task.losses(model, batch).sum()
            torch.autograd.backward(total)
        return {name: oriented(base, base.weight.grad) for name, base in bases.items()}
    finally:
        for base in bases.values():
            base.weight.requires_grad_(False)
            base.weight.grad = None


def oriented(base: nn.Module, gradient: Tensor) -> Tensor:
    """(m, n) in float32 on the CPU, whatever the layer stores."""
    matrix = gradient.detach().float().cpu()
    return matrix.mT.contiguous() if isinstance(base, Conv1D) else matrix


def stepped(layer: LowRank, step_mn: Tensor, *, seed: int) -> LowRank:
    """The layer whose s B R A is the best approximation of `step_mn` at its rank; B and A orthonormal, R diagonal."""
    r = layer.rank
    if min(step_mn.shape) <= EXACT_SIDE:
        U, S, Vh = torch.linalg.svd(step_mn.double(), full_matrices=False)
    else:
        with draws_apart():
            torch.manual_seed(seed)
            U, S, V = torch.svd_lowrank(step_mn.double(), q=r + OVERSAMPLING, niter=POWER_ITERATIONS)
        Vh = V.mT
    B_mr, A_rn, R_rr = U[:, :r], Vh[:r], torch.diag(S[:r]) / layer.scale
    return LowRank(B_mr.float().contiguous(), A_rn.float().contiguous(), layer.scale, R_rr.float())
