"""Planner for unequal devices: each client's rank of every matrix, from its declared resources.

Layers nearer the output first, and, where asked, ranks that rise towards it: LEGEND, arXiv 2412.20004 (its formulas are
not public; those here are stated where they are used). A client with less depth also stops its backward pass earlier.

    depth   the most layers that fit its memory and its time per step
    rank    the largest top rank whose download and upload fit its link
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import nn
from transformers import PretrainedConfig

from fedlora.adapters import scale_of
from fedlora.adapters.inject import layer_index
from fedlora.config import AdapterSettings, DeviceSettings, Recipe
from fedlora.settings import SettingsError
from fedlora.tasks.registry import task_named
from fedlora.updates import Adapter
from strategies.base import RankAllocation

Ranks = Mapping[str, int]
OTHERS = "others"
BYTES = 4  # float32, what the planner assumes on the wire and in memory
COPIES = 4  # value, gradient and two moments of AdamW
ACTIVATIONS = 34 * 2  # bytes per token and hidden unit of one float32 layer: sbh(34 + 5as/h), arXiv 2205.05198, eq. 2
MEGA = 1e6


@dataclass(frozen=True)
class Shape:
    """What the planner knows of a model: its adapted matrices by transformer layer, and what a step costs."""

    layers: tuple[tuple[tuple[str, int, int], ...], ...]
    """For every adapted layer, input first: (name, m, n) of its matrices."""
    activation_bytes: float
    """Kept for the backward pass by one layer, of one example."""
    batch: int
    """Examples that are computed at once, where a device does not take fewer."""

    @property
    def depth(self) -> int:
        return len(self.layers)


def shape_of(model: nn.Module, adapter: Adapter, recipe: Recipe) -> Shape:
    """The shape of a loaded model under a recipe's batch and text length."""
    found: dict[int, list[tuple[str, int, int]]] = {}
    for name in sorted(adapter.layers):
        index = layer_index(name)
        found.setdefault(-1 if index is None else index, []).append((name, *adapter.layers[name].shape))
    config: PretrainedConfig = model.config.get_text_config()  # type: ignore[union-attr, operator]
    hidden = int(config.hidden_size)
    positions = task_named(recipe.model.task).positions(model, longest=recipe.model.max_tokens)
    return Shape(
        layers=tuple(tuple(found[index]) for index in sorted(found)),
        activation_bytes=float(ACTIVATIONS * hidden * positions),
        batch=recipe.train.microbatch_size or recipe.train.batch_size,
    )


def planned(recipe: Recipe, shape: Shape, name_of: Callable[[int], str | None] | None) -> Callable[[int], Ranks | None]:
    """The ranks of every node under `devices`; all None without that section. SettingsError before a run starts."""
    if not recipe.devices or name_of is None:
        return lambda node: None
    plans = {
        name: ranks_of(device, shape, recipe.adapter, key=f"devices.{name}") for name, device in recipe.devices.items()
    }
    return lambda node: plans.get(name_of(node) or OTHERS, plans.get(OTHERS))


def ranks_of(device: DeviceSettings, shape: Shape, adapter: AdapterSettings, *, key: str) -> Ranks:
    """One client's rank of every matrix; SettingsError when not even one layer at rank 1 fits."""
    largest = min(device.r or adapter.r, adapter.r)
    depth = depth_of(device, shape, key=key)
    for top in range(largest, 0, -1):
        ranks = spread(shape, depth, top, device.distribution)
        if device.megabits_s is None or transfer_s(shape, ranks, device.megabits_s) <= device.transfer_s:
            return ranks
    raise SettingsError(
        f"{key}: {depth} layers at rank 1 take {transfer_s(shape, ranks, device.megabits_s or 1.0):.1f} s at "
        f"{device.megabits_s} Mbit/s, transfer_s allows {device.transfer_s}; raise transfer_s or lower depth."
    )


def depth_of(device: DeviceSettings, shape: Shape, *, key: str) -> int:
    """The most layers that memory, time and `depth` itself allow."""
    shape = replace(shape, batch=min(device.microbatch or shape.batch, shape.batch))
    for depth in range(min(device.depth or shape.depth, shape.depth), 0, -1):
        memory = memory_mb(shape, spread(shape, depth, 1, "uniform"), depth)
        fits = device.memory_mb is None or memory <= device.memory_mb
        if device.step_s is not None and device.target_step_s is not None:
            fits &= step_share(depth, shape.depth) * device.step_s <= device.target_step_s
        if fits:
            return depth
    least = memory_mb(shape, spread(shape, 1, 1, "uniform"), 1)
    raise SettingsError(
        f"{key}: not even the last layer fits; it needs {least:.1f} MB and "
        f"{step_share(1, shape.depth):.0%} of a full step's time. Raise memory_mb or target_step_s, or lower "
        "its microbatch."
    )


def spread(shape: Shape, depth: int, top: int, distribution: str) -> dict[str, int]:
    """Rank `top` in the last `depth` layers, or rising to it in equal steps; 0 in the layers before."""
    ranks: dict[str, int] = {}
    for index, matrices in enumerate(shape.layers):
        held = index - (shape.depth - depth) + 1  # 1 for the lowest layer that is held, `depth` for the last
        rank = 0 if held <= 0 else top if distribution == "uniform" else max(1, round(top * held / depth))
        ranks |= {name: rank for name, _, _ in matrices}
    return ranks


def numbers(shape: Shape, ranks: Ranks) -> int:
    """Values of A and B together."""
    return sum(ranks[name] * (m + n) for matrices in shape.layers for name, m, n in matrices)


def memory_mb(shape: Shape, ranks: Ranks, depth: int) -> float:
    return (shape.activation_bytes * shape.batch * depth + COPIES * BYTES * numbers(shape, ranks)) / MEGA


def transfer_s(shape: Shape, ranks: Ranks, megabits_s: float) -> float:
    """Download and upload of all factors as float32, in seconds."""
    return 2 * BYTES * 8 * numbers(shape, ranks) / (MEGA * megabits_s)


def step_share(depth: int, layers: int) -> float:
    """A step's time against one that adapts every layer: the forward pass is whole, the backward pass ends early."""
    return (1 + depth / layers) / 2


def shares(adapter: AdapterSettings, ranks: Ranks | None) -> dict[str, RankAllocation] | None:
    """Ranks with the scales that belong to them."""
    return None if ranks is None else {name: RankAllocation(r, scale_of(adapter, r)) for name, r in ranks.items()}
