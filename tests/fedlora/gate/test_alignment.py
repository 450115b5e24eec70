"""Safe LoRA's test of every matrix, against C formed outright, and planted changes across what alignment moved."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fedlora.gate.checks.alignment import columns, cosine, directions
from fedlora.lowrank import Product, zero
from fedlora.settings import SettingsError
from tests.fedlora.gate.runs import check, copied, gated

LARGE = ("--set", "change=1000")
"""The tiny base's matrices are nearly nothing."""


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def outright(V_mn: torch.Tensor, product: Product) -> float:
    """As the paper writes it."""
    change, C = product.dense(), V_mn.double() @ V_mn.double().mT / torch.linalg.matrix_norm(V_mn.double())
    return float(
        (C @ change * change).sum() / (torch.linalg.matrix_norm(C @ change) * torch.linalg.matrix_norm(change))
    )


@pytest.mark.parametrize("shape", [(12, 7), (7, 12), (9, 9)])
@pytest.mark.parametrize("rank", [1, 3])
def test_the_cosine_is_the_paper_s_without_its_matrix(shape, rank):
    m, n = shape
    V, product = drawn(m, n), Product(drawn(m, rank, seed=1), drawn(rank, n, seed=2))
    assert cosine(V, columns(product)) == pytest.approx(outright(V, product), abs=1e-6)


def test_a_change_drawn_at_random_is_at_the_level_of_chance_and_one_across_is_at_nothing():
    """V moved the first eight rows alone."""
    model, before = nn.ModuleDict({"layer": nn.Linear(64, 64)}), nn.ModuleDict({"layer": nn.Linear(64, 64)})
    with torch.no_grad():
        before["layer"].weight.copy_(model["layer"].weight)
        before["layer"].weight[:8] += drawn(8, 64)
    along, across = (nn.functional.pad(drawn(8, 2), (0, 0, top, 56 - top)) for top in (0, 8))
    changes = {"random": drawn(64, 40, seed=5), "along": along, "across": across}
    found = {}
    for name, U_mp in changes.items():
        ((_, found[name]),) = directions({"layer": Product(U_mp, drawn(U_mp.shape[1], 64, seed=3))}, model, before)
    assert found["random"].share == pytest.approx(1, abs=0.25)
    assert found["along"].share > 2
    assert found["across"].cosine == 0
    assert list(directions({"layer": zero((64, 64))}, model, before)) == []


def test_a_change_across_alignment_is_held_and_a_model_of_another_shape_is_refused(answers, tmp_path):
    """Alignment is said to have moved, in every matrix, what the adapter does not touch; and what it does."""
    run = copied(answers[0], tmp_path / "run")
    place = json.loads((run / "adapter" / "fedlora.json").read_text())["base"]["id"]
    base = next(folder for folder in answers[0].parent.rglob(place.removeprefix("./")) if folder.is_dir())
    factors = load_file(run / "adapter" / "adapter_model.safetensors")
    status = {}
    for name in ("across", "along"):
        before = shutil.copytree(base, tmp_path / name)
        weights = load_file(before / "model.safetensors")
        for key in [key for key in factors if key.endswith("lora_B.weight")]:
            layer = key.removeprefix("base_model.model.").removesuffix(".lora_B.weight")
            B_mr = factors[key].double()
            onto = B_mr @ torch.linalg.pinv(B_mr)
            onto = torch.eye(len(onto), dtype=torch.float64) - onto if name == "across" else onto
            weights[f"{layer}.weight"] -= (onto @ drawn(*weights[f"{layer}.weight"].shape).double()).float()
        save_file(weights, before / "model.safetensors", metadata={"format": "pt"})
        status[name], found, _ = gated(run, "--unaligned", before, *LARGE)
        one = check(found, "alignment")
        assert one["passed"] == (name == "along")
        assert one["figures"]["off"] == (one["figures"]["matrices"] if name == "across" else 0)
    assert status == {"across": 1, "along": 0}
    with pytest.raises(SettingsError, match=r"none of the adapted matrices differs between it and the base"):
        gated(run, "--unaligned", base, *LARGE)
