"""`fedlora strategies` and `fedlora probe`: choosing what to aggregate, and how."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fedlora.adapters.exactness_probe import EXACT, Exactness, adapter_types, probe
from fedlora.adapters.inject import adapted_shapes
from fedlora.config import AdapterSettings, ModelSettings
from fedlora.listing import listing
from fedlora.lowrank import dense_is_smaller
from fedlora.models.base import outline
from fedlora.settings import SettingsError, parse
from fedlora.updates import Factor
from strategies.base import Strategy
from strategies.registry import build, names

SHORTER = {"secure aggregation": "secure agg.", "sample-level DP": "DP", "server optimizer": "server opt."}
LEFT_OUT_FIRST = ("paper", "server opt.", "moves base", "DP", "unequal ranks")


@dataclass(frozen=True)
class Traffic:
    """Numbers per client and round; heads not counted."""

    up: int
    down: int


@dataclass(frozen=True)
class Setup:
    """Inputs of the traffic figures: the adapted matrices (m, n), the rank, the clients of a round."""

    shapes: Sequence[tuple[int, int]]
    r: int
    clients: int


def traffic(strategy: Strategy, setup: Setup) -> Traffic:
    """Values that this implementation sends for all adapted matrices together."""
    each = [traffic_of(strategy, m=m, n=n, r=setup.r, clients=setup.clients) for m, n in setup.shapes]
    return Traffic(sum(one.up for one in each), sum(one.down for one in each))


def traffic_of(strategy: Strategy, *, m: int, n: int, r: int, clients: int) -> Traffic:
    """One matrix: the trained factors up; the whole adapter, and a moved base's residual, down."""
    sizes = {Factor.A: r * n, Factor.B: m * r, Factor.R: r * r, Factor.DENSE: 0}
    if strategy.traits.keeps:
        return Traffic(sizes[Factor.A], r * (m + n))
    up = sum(sizes[factor] for factor in strategy.trains(1))
    down = r * (m + n) + (r * r if Factor.R in strategy.trains(1) else 0)
    if strategy.traits.moves_base:
        rank = strategy.residual_rank(clients=clients, r=r)
        down += m * n if dense_is_smaller(rank, (m, n)) else rank * (m + n)
    return Traffic(up, down)


def describe(name: str, setup: Setup) -> dict[str, Any]:
    """One strategy as a row."""
    strategy = build(name, {})
    traits, sent = strategy.traits, traffic(strategy, setup)
    phases = sorted({", ".join(sorted(strategy.trains(number) - {Factor.DENSE})) for number in (1, 2)}, reverse=True)
    return {
        "strategy": name,
        "trains": " / ".join(phases) + (f"; keeps {', '.join(sorted(traits.keeps))}" if traits.keeps else ""),
        "up": sent.up,
        "down": sent.down,
        "exact": traits.exact,
        "moves base": traits.moves_base,
        "secure aggregation": traits.linear_uploads,
        "unequal ranks": traits.unequal_ranks,
        "sample-level DP": traits.example_level_dp,
        "server optimizer": traits.fixed_coordinates,
        "paper": traits.paper,
    }


def strategies(
    m: Annotated[int, typer.Option(help="Rows of an adapted matrix (out features).")] = 4096,
    n: Annotated[int, typer.Option(help="Columns (in features).")] = 4096,
    r: Annotated[int, typer.Option(help="Rank of the adapter.")] = 16,
    clients: Annotated[int, typer.Option(help="Clients per round.")] = 10,
    model: Annotated[
        str | None,
        typer.Option(help="All adapted matrices of this model (hub id, folder or demo) in place of m and n."),
    ] = None,
    targets: Annotated[
        str, typer.Option(help="With --model: attention, all-linear, or names with commas, as adapter.targets.")
    ] = "attention",
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """List what every strategy trains, sends (values per client and round) and guarantees."""
    shapes = [(m, n)] if model is None else shapes_of(model, targets, r)
    setup = Setup(shapes, r, clients)
    rows = [describe(name, setup) for name in names()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    what = f"m={m}, n={n}" if model is None else f"{model}: {len(shapes)} adapted matrices"
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{what}, r={r}, {clients} clients")
    headings = [SHORTER.get(name, name) for name in rows[0]]
    found = [[cell(value) for value in row.values()] for row in rows]
    for text in listing(headings, found, width=console.width, leave_out=LEFT_OUT_FIRST):
        console.print(text)


def shapes_of(model: str, targets: str, r: int) -> list[tuple[int, int]]:
    """The matrices that these targets adapt; the model's weights are not read."""
    chosen = targets if targets in ("attention", "all-linear") else targets.split(",")
    settings = parse(AdapterSettings, {"r": r, "targets": chosen}, prefix="adapter")
    return list(adapted_shapes(outline(parse(ModelSettings, {"id": model}, prefix="model")), settings).values())


def cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def probe_adapters(
    adapter: Annotated[
        list[str] | None, typer.Option(help="PEFT adapter type; may be repeated. All when not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Test whether averaging an adapter's parameters equals averaging ΔW, and if not, with which part frozen."""
    results, refused = [], []
    for name in adapter or [*adapter_types(), "dora", "lora_xs"]:
        try:
            results.append(probe(name))
        except SettingsError as error:
            if adapter:
                raise
            refused.append(str(error).split(" Known:")[0])
    if as_json:
        typer.echo(json.dumps([as_row(result) for result in results], indent=2))
        return
    table = Table("adapter", "averaging is", "relative error", "exact when frozen")
    for result in sorted(results, key=lambda result: (not result.exact, result.adapter)):
        table.add_row(result.adapter, *verdict(result))
    console = Console()
    console.print(table)
    for reason in refused:
        console.print(reason, style="dim", highlight=False)


def verdict(result: Exactness) -> tuple[str, str, str]:
    frozen = ", ".join(result.exact_with_frozen) or ("-" if result.exact else "nothing")
    return "exact" if result.exact else "not exact", f"{result.error:.1e}", "-" if result.exact else frozen


def as_row(result: Exactness) -> dict[str, Any]:
    return {
        "adapter": result.adapter,
        "exact": result.exact,
        "error": result.error,
        "exact_when_frozen": list(result.exact_with_frozen),
        "tolerance": EXACT,
    }
