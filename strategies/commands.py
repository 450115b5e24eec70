"""`fedlora strategies` and `fedlora probe`: choosing what to aggregate, and how."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fedlora.exactness_probe import EXACT, Exactness, adapter_types, probe
from fedlora.settings import SettingsError
from fedlora.updates import Factor
from strategies.base import Strategy
from strategies.registry import STRATEGIES, build


@dataclass(frozen=True)
class Traffic:
    """Numbers per adapted matrix (m, n), client and round; heads not counted."""

    up: int
    down: int


def traffic(name: str, strategy: Strategy, *, m: int, n: int, r: int, clients: int) -> Traffic:
    """What this implementation sends: the trained factors up; the whole adapter, and a moved base's residual, down."""
    sizes = {Factor.A: r * n, Factor.B: m * r, Factor.R: r * r, Factor.HEAD: 0}
    if strategy.traits.keeps:
        return Traffic(sizes[Factor.A], r * (m + n))
    up = sum(sizes[factor] for factor in strategy.trains(1))
    down = r * (m + n) + (r * r if Factor.R in strategy.trains(1) else 0)
    if strategy.traits.moves_base:
        rank = clients * r if name == "flora" else (clients - 1) * r
        down += min(m * n, rank * (m + n))
    return Traffic(up, down)


def describe(name: str, *, m: int, n: int, r: int, clients: int) -> dict[str, Any]:
    """One strategy as a row."""
    strategy = build(name, {})
    traits, sent = strategy.traits, traffic(name, strategy, m=m, n=n, r=r, clients=clients)
    phases = sorted({", ".join(sorted(strategy.trains(number) - {Factor.HEAD})) for number in (1, 2)}, reverse=True)
    return {
        "strategy": name,
        "trains": " / ".join(phases),
        "up": sent.up,
        "down": sent.down,
        "exact": traits.exact,
        "moves base": traits.moves_base,
        "secure aggregation": traits.linear_uploads,
        "unequal ranks": traits.unequal_ranks,
        "example-level DP": traits.example_level_dp,
        "paper": traits.paper,
    }


def strategies(
    m: Annotated[int, typer.Option(help="Rows of an adapted matrix (out features).")] = 4096,
    n: Annotated[int, typer.Option(help="Columns (in features).")] = 4096,
    r: Annotated[int, typer.Option(help="Rank of the adapter.")] = 16,
    clients: Annotated[int, typer.Option(help="Clients per round.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """What every strategy trains, sends (numbers per adapted matrix, client and round) and guarantees."""
    rows = [describe(name, m=m, n=n, r=r, clients=clients) for name in sorted(STRATEGIES)]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(*rows[0], title=f"m={m}, n={n}, r={r}, {clients} clients")
    for row in rows:
        table.add_row(*(cell(value) for value in row.values()))
    Console().print(table)


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
    """Is averaging an adapter's trainable parameters the same as averaging ΔW, and if not, with which part frozen?"""
    results, refused = [], []
    for name in adapter or [*adapter_types(), "dora"]:
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
