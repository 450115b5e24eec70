"""`fedlora wire`: what a message holds, and how many megabytes a recipe will send before anything runs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from google.protobuf.message import DecodeError
from rich.console import Console
from rich.table import Table
from torch import Tensor

from fedlora.adapters import initial_adapter
from fedlora.config import Recipe, load
from fedlora.resident import resident
from fedlora.settings import SettingsError
from fedlora.updates import Adapter, Factor, Tensors, Update, add
from fedlora.wire import update_pb2 as pb
from fedlora.wire.changes import next_links, packed_changes
from fedlora.wire.choice import choose
from fedlora.wire.message import NAMES, Header, encode
from fedlora.wire.state import encode_state
from simulations.commands import Overrides
from strategies.base import Strategy
from strategies.registry import build

STATE_HASH = 16  # bytes; a message's SHA-256 has 32

app = typer.Typer(no_args_is_help=True, help="What a message holds; how many bytes a recipe will send.")


@app.command()
def inspect(file: Annotated[Path, typer.Argument(help="A packed message.")]) -> None:
    """Print what a message holds, byte by byte of its budget. Nothing in it is trusted or decoded."""
    try:
        blob = file.read_bytes()
        links = links_in(blob)
        shown = [table_of(link) for link in links or [blob]]
    except OSError as error:
        raise SettingsError(f"cannot read {file}: {error.strerror}.") from None
    except DecodeError:
        raise SettingsError(f"{file} is not a fedlora message.") from None
    for table in shown:
        Console().print(table)
    if links:
        around = len(blob) - sum(map(len, links))
        typer.echo(f"{len(links)} links to follow in this order: {len(blob)} bytes, {around} around the links.")


def links_in(blob: bytes) -> list[bytes]:
    """The messages in a download of changes; none where it is one message. Their second fields differ in length."""
    changes = pb.Changes.FromString(blob)
    return list(changes.links) if len(changes.result_hash) == STATE_HASH else []


def table_of(blob: bytes) -> Table:
    envelope = pb.Envelope.FromString(blob)
    body = pb.Body.FromString(envelope.body)
    table = Table("part", "value", "bytes")
    for name in ("format", "kind", "run", "round", "client", "strategy"):
        table.add_row(name, str(getattr(body, name)), "")
    table.add_row("base state", body.base_hash.hex(), str(len(body.base_hash)))
    table.add_row("schema", body.schema_hash.hex(), str(len(body.schema_hash)))
    table.add_row("codec", str(NAMES.get(body.codec, body.codec)), "")
    payload = sum(len(chunk.payload) for chunk in body.chunks)
    sent = sum(chunk.k for chunk in body.chunks)
    table.add_row("chunks", f"{len(body.chunks)}, {sent:,} values", str(payload))
    if body.residual_ranks:
        ranks = Counter(body.residual_ranks)
        table.add_row("residual ranks", ", ".join(f"{count} x {rank}" for rank, count in sorted(ranks.items())), "")
    table.add_row("signature", "present" if envelope.signature else "none", str(len(envelope.signature)))
    table.add_row("envelope and headers", "", str(len(blob) - payload - len(envelope.signature)))
    table.add_row("all", "", str(len(blob)), style="bold")
    return table


@app.command()
def plan(
    recipe: Annotated[str, typer.Argument(help="Recipe file, or the name of a packaged recipe.")] = "fedit",
    overrides: Overrides = None,
    model: Annotated[str | None, typer.Option(help="Short for --set model.id=...")] = None,
    strategy: Annotated[str | None, typer.Option(help="Short for --set strategy.name=...")] = None,
    codec: Annotated[str | None, typer.Option(help="Short for --set wire.codec=...")] = None,
    density: Annotated[float | None, typer.Option(help="Short for --set wire.density=...")] = None,
    clients: Annotated[int, typer.Option(help="Clients per round, for strategies that move the base.")] = 6,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Megabytes per client and round, up and down, from really packed messages of the recipe's own model."""
    named = {"model.id": model, "strategy.name": strategy, "wire.codec": codec, "wire.density": density}
    short = [f"{key}={value}" for key, value in named.items() if value is not None]
    loaded = load(recipe, [*(overrides or []), *short])
    sizes = planned_bytes(loaded, clients=clients)
    if as_json:
        typer.echo(json.dumps(sizes, indent=2))
        return
    table = Table("", "per client and round", f"per client, {loaded.rounds.count} rounds", "against fp32 A and B")
    for way in ("up", "down"):
        one = sizes[f"bytes_{way}"]
        first = sizes["bytes_down_first"] - one if way == "down" else 0
        whole = one * loaded.rounds.count + first
        table.add_row(way, f"{one / 1e6:.3f} MB", f"{whole / 1e6:.2f} MB", f"{sizes['dense_fp32'] / one:.1f} x less")
    Console().print(table)


def planned_bytes(recipe: Recipe, *, clients: int) -> dict[str, Any]:
    """Lengths of packed messages with Gaussian values, as the recipe's own strategy makes them of its updates."""
    home = resident(recipe.model, recipe.adapter, ("a", "b", "c"))
    adapter = initial_adapter(home.model, recipe.adapter, seed=0)
    strategy = build(recipe.strategy.name, recipe.strategy.options)
    trains = strategy.trains(1) - ({Factor.HEAD} if recipe.train.head == "frozen" else set())
    update = noise_like(adapter.tensors(trains), seed=0)
    choice = choose(update, recipe.wire)
    header = Header("update", "0" * 32, 1, "client", recipe.strategy.name, b"0" * 16)
    both = adapter.tensors([Factor.A, Factor.B, Factor.HEAD])
    whole = bytes_of_state(recipe, strategy, adapter, clients=clients)
    return {
        "strategy": recipe.strategy.name,
        "codec": choice.codec,
        "density": choice.density,
        "bytes_up": len(encode(update, header, codec=choice.codec, density=choice.quotas)),
        "bytes_down": whole if recipe.wire.download == "whole" else bytes_of_changes(recipe, strategy, adapter),
        "bytes_down_first": whole,
        "dense_fp32": sum(4 * tensor.numel() for tensor in both.values()),
    }


def bytes_of_state(recipe: Recipe, strategy: Strategy, adapter: Adapter, *, clients: int) -> int:
    """A whole state; a moved base adds its residual, of the rank that it can have."""
    name = recipe.strategy.name
    codec = recipe.wire.download_codec if recipe.wire.download == "whole" else "fp32"
    state = encode_state(adapter, {}, run="0" * 32, round_number=1, strategy=name, codec=codec)
    if not strategy.traits.moves_base:
        return len(state)
    rank = clients if name == "flora" else clients - 1
    shapes = [(layer.shape, layer.rank) for layer in adapter.layers.values()]
    return len(state) + sum(4 * min(m * n, rank * r * (m + n)) for (m, n), r in shapes)


def bytes_of_changes(recipe: Recipe, strategy: Strategy, adapter: Adapter) -> int:
    """What leads from the state after one round to that after two."""
    state, before = strategy.init(adapter), adapter
    for number in (1, 2):
        before = state.adapter
        start = before.tensors(strategy.trains(number))
        trained = before.with_tensors(add(start, noise_like(start, seed=number), scale=0.01))
        state = strategy.step(state, strategy.combine([Update("client", 1.0, trained)]))
    step = next_links(
        before,
        state.adapter,
        run="0" * 32,
        round_number=3,
        strategy=recipe.strategy.name,
        codec=recipe.wire.download_codec,
        density=recipe.wire.download_density,
    )
    return len(packed_changes(step.links, step.held))


def noise_like(tensors: Tensors, *, seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(tensor.shape, generator=draw) for name, tensor in tensors.items()}
