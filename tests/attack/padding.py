"""A coordinator's adapter that is finite on every real token and overflows on padding from position 14 on.

Then the longest text of a batch decides whether everybody else's gradient is finite, and what is not counts as zero.
Only values of A and B are crafted, from texts of the attacker's own.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from fedlora.adapters import initial_adapter, write
from fedlora.config import Recipe
from fedlora.data.examples import Examples, encoded
from fedlora.data.form import Columns
from fedlora.data.row import Row
from fedlora.data.rows import read_rows
from fedlora.models.base import load_processor
from fedlora.models.loaded_model import loaded_model
from fedlora.protocol.task import Task
from fedlora.settings import parse
from fedlora.updates import Adapter, Factor
from fedlora.wire.state import encode_state
from simulations.auditing.site import spread
from tests.attack.scene import run_of, site_with
from tests.token_examples import token_examples, token_ids

LENGTHS = (2, 5, 9, 12, 14, 16)
FROM = 14
PUBLIC = 200

RECIPE = parse(
    Recipe,
    {
        "model": {"max_tokens": 16},
        "adapter": {"r": 2, "alpha": 2, "targets": "all-linear", "layers": [0]},
        "strategy": {"name": "fedit"},
        "privacy": {"epsilon": 3.0},
        "train": {"batch_size": 32, "steps": 1},
    },
)


def labels_of(rows: list[Row]) -> tuple[str, ...]:
    return tuple(sorted({row.label for row in rows}))


def tokens_of(rows: list[Row]) -> Examples:
    return encoded(rows, labels_of(rows), load_processor(RECIPE.model), on=RECIPE.model)


def texts(folder: Path) -> tuple[list[Row], list[Row], list[Row]]:
    """Twenty rows of 14 tokens, one of 16, and what the attacker has of its own."""
    rows = read_rows("airlines", Columns())
    public = spread([row for row in rows if row.client == "united"], PUBLIC)
    private = [row for row in rows if row.client == "jetblue"]
    lengths = [len(ids) for ids in token_ids(tokens_of(private))]
    short = spread([row for row, length in zip(private, lengths, strict=True) if length == FROM], 20)
    long = [row for row, length in zip(private, lengths, strict=True) if length == 16][:1]
    return short, long, public


def crafted_task(public: list[Row], folder: Path) -> tuple[Task, bytes]:
    """A task that trains the head, from the crafted state."""
    run = run_of(RECIPE, site_with(folder / "other", public), folder, labels_of(public))
    task, _ = run.task_for_a_new_site()
    home = loaded_model(task.model, task.adapter, task.labels)
    crafted = crafted_adapter(home.model, initial_adapter(home.model, task.adapter, seed=0), tokens_of(public))
    blob = encode_state(crafted, {}, run=task.run, round_number=task.round, strategy=task.strategy, codec="fp32")
    return task.model_copy(update={"trains": (Factor.DENSE,)}), blob


def crafted_adapter(model: nn.Module, adapter: Adapter, public: Examples) -> Adapter:
    """A1 finds late padding, B1 makes it large, A2 and B2 make it overflow."""
    write(model, adapter)
    direction = separating(*seen_by(model, public))
    tensors = dict(adapter.tensors())
    into = next(name for name in tensors if name.endswith("intermediate.dense.A")).removesuffix(".A")
    out = next(name for name in tensors if name.endswith("0.output.dense.A")).removesuffix(".A")
    made = {name: torch.zeros_like(tensors[name]) for name in (f"{into}.A", f"{into}.B", f"{out}.A", f"{out}.B")}
    made[f"{into}.A"][0] = direction.float()
    made[f"{into}.B"][7, 0] = 1e22
    made[f"{out}.A"][0, 7] = 1e10
    made[f"{out}.B"][3, 0] = 1e10
    return adapter.with_tensors(made)


def seen_by(model: nn.Module, public: Examples) -> tuple[Tensor, Tensor]:
    """What layer 0's feed-forward part is given at tokens and early padding, and at padding from `FROM` on."""
    seen: list[Tensor] = []
    layer = model.get_submodule("encoder.layer.0.intermediate")
    hook = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    others, late = [], []
    model.eval()
    with torch.no_grad():
        for length in LENGTHS:
            ids = [row[:length] for row in token_ids(public)[:60]] + [token_ids(public)[0][:16], torch.arange(2)]
            batch = token_examples(ids, torch.zeros(len(ids), dtype=torch.long), public.padding).batch(range(len(ids)))
            model(batch["input_ids"], batch["attention_mask"])
            padded = ~batch["attention_mask"].bool()
            padded[:, :FROM] = False
            others.append(seen[-1][~padded])
            late.append(seen[-1][padded])
    hook.remove()
    return torch.cat(others).double(), torch.cat(late).double()


def separating(others: Tensor, late: Tensor) -> Tensor:
    """A direction in which late padding is above zero and all else below, as far as there is one."""
    x = torch.cat([others, late])
    y = torch.cat([-torch.ones(len(others)), torch.ones(len(late))]).double()
    weights = torch.cat([torch.full((len(part),), 1 / len(part)) for part in (others, late)]).double().sqrt()
    direction: Tensor = torch.linalg.lstsq(x * weights[:, None], y * weights).solution
    for _ in range(400):
        wrong = y * (x @ direction) < 0.05
        if not bool(wrong.any()):
            break
        direction = direction + 0.02 * (x[wrong] * y[wrong, None]).mean(0)
    return direction
