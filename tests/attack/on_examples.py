"""Attacks on what one example moves: chance, shapes, splits, numbers. `make attack` runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from client.own_rows import own_rows
from fedlora.config import load
from fedlora.config.privacy import PrivacySettings
from fedlora.data.form import Columns
from fedlora.data.row import text_row
from fedlora.data.rows import read_rows
from fedlora.privacy.engine import PrivateEngine
from fedlora.privacy.mechanism import Mechanism
from fedlora.settings import SettingsError
from simulations.auditing.audit import Asked, audit
from simulations.auditing.rows import TOLERANCE, clipped_sum, moved_by_rows
from simulations.auditing.site import make_site, spread
from simulations.data.site_files import write_rows
from tests.attack import padding
from tests.attack.attack import Gain
from tests.attack.faults import FAULTS
from tests.attack.scene import asked, messages, run_of, site_with, small_recipe


def dropout(folder: Path) -> Gain:
    """Demo model, packaged recipe, 128 rows of one airline; the first, the 43rd and the 86th taken out."""
    recipe = load("private-fedit", [])
    rows = spread([row for row in read_rows("airlines", Columns()) if row.client == "jetblue"], 128)
    labels = tuple(sorted({row.label for row in rows}))
    run = run_of(recipe, site_with(folder / "site", rows), folder, labels)
    other = make_site(folder / "rows", "rows", rows, test=None)
    moved = moved_by_rows(*run.task_for_a_new_site(), rows, take_out=3, site=other)
    return Gain(f"one of 128 texts moves the clipped sum by {moved.most:.6f} C", not moved.refuted)


def padded(folder: Path) -> Gain:
    """Twenty texts of 14 tokens, with and without one of 16 before them."""
    short, long, public = padding.texts(folder)
    task, blob = padding.crafted_task(public, folder)
    site = site_with(folder / "site", [*long, *short], test=public[:2])
    before = [asked(task, blob, site)]
    if before != ["trained"]:
        return Gain(f"nothing: {before[0]}", True)
    whole = clipped_sum(task, blob, site, number=0, of=1)
    write_rows(site.data.train, short)
    distance = float((whole - clipped_sum(task, blob, site, number=1, of=1)).norm()) / task.privacy.clip
    return Gain(f"one long text moves the clipped sum by {distance:.6f} C", distance <= 1 + TOLERANCE)


def moved_split(folder: Path) -> Gain:
    """1,000 rows; one appended, one taken out, one whose text is there with another class put in front."""
    rows = messages(1000)
    site = site_with(folder / "site", rows)
    before = set(own_rows(site).train)
    changed = 0
    for others in (
        [*rows, text_row("the person", "good", "")],
        [*rows[:500], *rows[501:]],
        [text_row(rows[7]["text"], "good" if rows[7].label == "bad" else "bad", ""), *rows],
    ):
        write_rows(site.data.train, others)
        changed = max(changed, len(before ^ set(own_rows(site).train)))
    return Gain(f"at most {changed} of {len(before)} training rows joins or leaves", changed <= 1)


def subnormal(folder: Path) -> Gain:
    """A clipping norm so small that dividing by it is not exact."""
    for made in (
        lambda clip: PrivacySettings(epsilon=3.0, clip=clip),
        lambda clip: Mechanism(rate=1.0, noise_multiplier=1.0, clip=clip, steps=1, expected_batch=1.0),
    ):
        try:
            made(1e-41)
        except ValueError:
            continue
        return Gain("a clip of 1e-41 is taken", False)
    return Gain("nothing: a clip of 1e-41 is refused, by recipe and by mechanism", True)


def tf32(folder: Path) -> Gain:
    """A process in which matrix products may be computed with 10 bits; what the clipping computes with."""
    recipe = small_recipe(folder)
    site = site_with(folder / "site", messages(60))
    task, blob = run_of(recipe, site, folder).task_for_a_new_site()
    seen: list[str] = []
    factors = PrivateEngine._factors

    def looked(self: PrivateEngine, gradients: object) -> torch.Tensor:
        seen.append(precision())
        return factors(self, gradients)  # type: ignore[arg-type]

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with patch.object(PrivateEngine, "_factors", looked):
            asked(task, blob, site)
    finally:
        torch.set_float32_matmul_precision(before)
    used = sorted(set(seen))
    return Gain(f"products inside the clipping: {', '.join(used) or 'unseen'}", used == [WHOLE])


WHOLE = "all bits of float32"


def precision() -> str:
    """Of matrix products on a GPU, as torch is set at this moment."""
    backends: Any = torch.backends
    if not hasattr(backends, "fp32_precision"):  # torch before 2.9
        found = torch.get_float32_matmul_precision()
        return WHOLE if found == "highest" else found
    found = backends.cuda.matmul.fp32_precision
    return WHOLE if found == "ieee" else str(found)


def blind_audit(folder: Path) -> Gain:
    """Every fault that the audit is there for, put into the product. `make audit` does it to the packaged recipes."""
    model = small_recipe(folder, "privacy.epsilon=6", "train.steps=4")
    few = Asked(client="blue", canaries=80, rows=24, take_out=3)
    found = {}
    for name, fault in FAULTS.items():
        if name == "dropout on":
            continue  # this base model has none; the packaged ones have
        with fault():
            try:
                found[name] = audit(model, few).refuted
            except SettingsError:
                found[name] = False
    missed = [name for name, refuted in found.items() if not refuted]
    return Gain(
        f"{len(found) - len(missed)} of {len(found)} faults refuted{': not ' * bool(missed)}{', '.join(missed)}",
        not missed,
    )
