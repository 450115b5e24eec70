"""`fedlora wire`: what a message holds, and how many megabytes a recipe will send before anything runs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.message import DecodeError
from rich.console import Console
from rich.table import Table

from fedlora.config import load
from fedlora.settings import SettingsError
from fedlora.wire import update_pb2 as pb
from fedlora.wire.message import NAMES
from simulations.commands.options import Overrides
from simulations.planned_bytes import planned_bytes

STATE_HASH = 16  # bytes; a message's SHA-256 has 32

app = typer.Typer(no_args_is_help=True, help="Show a message's contents; plan the bytes a recipe will send.")


@app.command()
def inspect(file: Annotated[Path, typer.Argument(help="File with a packed message.")]) -> None:
    """Show a message's contents and the bytes of each part. Nothing in it is trusted or decoded."""
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
        typer.echo(f"{len(links)} linked messages in this order: {len(blob)} bytes, {around} around the links.")


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
    clients: Annotated[int, typer.Option(min=1, help="Clients per round, for strategies that move the base.")] = 6,
    classes: Annotated[
        int | None, typer.Option(min=2, help="Number of classes, if neither data.labels nor the data define them.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Plan the traffic: megabytes per client and round, up and down, from really packed messages of the recipe's
    model."""
    named = {"model.id": model, "strategy.name": strategy, "wire.codec": codec, "wire.density": density}
    short = [f"{key}={value}" for key, value in named.items() if value is not None]
    loaded = load(recipe, [*(overrides or []), *short])
    labels = None if classes is None else [f"class {number}" for number in range(classes)]
    sizes = planned_bytes(loaded, clients=clients, labels=labels)
    if as_json:
        typer.echo(json.dumps(sizes, indent=2))
        return
    table = Table("", "per client and round", f"per client, {loaded.rounds.count} rounds", "against fp32 A and B")
    for way in ("up", "down"):
        one, whole = sizes[f"bytes_{way}"], sizes[f"bytes_{way}_run"]
        table.add_row(way, f"{one / 1e6:.3f} MB", f"{whole / 1e6:.2f} MB", f"{sizes['dense_fp32'] / one:.1f} x less")
    Console().print(table)
