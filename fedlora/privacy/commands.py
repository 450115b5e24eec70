"""`fedlora privacy plan` and `fedlora ledger show|verify|export|carry`."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fedlora.config import TrainSettings
from fedlora.config.privacy import PrivacySettings
from fedlora.nearest import did_you_mean
from fedlora.privacy.accounting import ADJACENCY
from fedlora.privacy.calibration import UnreachableError
from fedlora.privacy.carried import spent_of
from fedlora.privacy.carry_command import carry
from fedlora.privacy.chain import Chain
from fedlora.privacy.ledger import LedgerFiles, datasets, inspect_ledger
from fedlora.privacy.plan import ClientPlan, Release, Shape, plan_client, releases
from fedlora.privacy.shown import at_most
from fedlora.settings import SettingsError, parse

ledger_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="The privacy budget that a site's data have spent."
)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


ledger_app.command()(carry)


def _with_ledgers(site: Path) -> Path:
    """Where the ledgers are: in a deployed site's folder they are under `state`."""
    return site / "state" if datasets(site / "state") and not datasets(site) else site


SiteFolder = Annotated[
    Path,
    typer.Argument(callback=_with_ledgers, help="The site's folder (a simulation's are OUT/sites/NAME)."),
]


def plan(
    examples: Annotated[
        list[int], typer.Option(min=1, help="A client's number of training examples; repeat it for every client.")
    ],
    target: Annotated[float, typer.Option("--epsilon", help="Target ε of the whole run.")] = 6.0,
    delta: Annotated[float, typer.Option(help="δ; below 1 / examples.")] = 1e-5,
    batch: Annotated[int, typer.Option(min=1, help="Expected batch size.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="Largest number of rounds that a client takes part in.")] = 10,
    steps: Annotated[int, typer.Option(min=1, help="Local steps a round.")] = 10,
    spare_rounds: Annotated[
        int, typer.Option(min=0, help="Extra trainings per client, for rounds that are cut off and repeated.")
    ] = 0,
    clip: Annotated[float, typer.Option(help="C: largest norm of one example's gradient.")] = 1.0,
    rank: Annotated[int, typer.Option(min=1, help="r of FedIT, FFA and FedSVD.")] = 8,
    core_rank: Annotated[int, typer.Option(min=1, help="r of Fed-SB's core.")] = 16,
    width: Annotated[int, typer.Option(min=1, help="Rows and columns of one adapted matrix.")] = 384,
    lr: Annotated[float, typer.Option(help="Learning rate of SGD, for the noise in ΔW.")] = 0.1,
    as_json: AsJson = False,
) -> None:
    """Plan a private run: σ per client, ε by round, the cost of one more round, and what each strategy releases."""
    try:
        asked = {"epsilon": target, "delta": delta, "clip": clip, "spare_rounds": spare_rounds}
        privacy = parse(PrivacySettings, asked, prefix="privacy")
        train = parse(TrainSettings, {"batch_size": batch, "steps": steps, "lr": lr}, prefix="train")
        plans = [plan_client(n, privacy=privacy, train=train, rounds=rounds) for n in examples]
    except (UnreachableError, ValueError) as error:
        raise SettingsError(str(error)) from None
    shape = Shape(m=width, n=width, r=rank, r_core=core_rank, lr=lr)
    noisiest = max(client.noise_multiplier for client in plans)
    sent = releases(shape, noise_std=noisiest * clip / batch, steps=rounds * steps)
    if as_json:
        known = {"adjacency": ADJACENCY, "delta": delta, "unit": "example"}
        typer.echo(
            json.dumps({**known, "clients": [asdict(c) for c in plans], "strategies": [asdict(s) for s in sent]})
        )
        return
    console = Console()
    spare = f" and {spare_rounds} spare ones" if spare_rounds else ""
    console.print(
        f"Target ε {target:g} at δ {delta:g}, one example added or removed; every client in all {rounds} rounds{spare}."
    )
    console.print(_client_table(plans))
    console.print(_round_table(plans))
    console.print(_release_table(sent, shape, noisiest * clip / batch))


def _client_table(plans: list[ClientPlan]) -> Table:
    table = Table("examples", "public size", "q", "σ", "final ε", "at most", "one more round costs")
    for client in plans:
        table.add_row(
            str(client.examples),
            str(client.public_examples),
            f"{client.rate:.4f}",
            f"{client.noise_multiplier:g}",
            at_most(client.epsilon_by_round[-1][1]),
            at_most(client.epsilon_at_most),
            f"+{at_most(client.one_more_round)}",
        )
    return table


def _round_table(plans: list[ClientPlan]) -> Table:
    table = Table("after round", *(f"ε, {client.examples} examples" for client in plans))
    for row in zip(*(client.epsilon_by_round for client in plans), strict=True):
        table.add_row(str(row[0][0]), *(at_most(spent) for _, spent in row))
    return table


def _release_table(sent: Any, shape: Shape, noise_std: float) -> Table:
    title = (
        f"One {shape.m} x {shape.n} matrix, rank {shape.r} (Fed-SB {shape.r_core}), SGD at lr {shape.lr:g}: "
        f"noise only, standard deviation {noise_std:.2e} per value and step"
    )
    table = Table("strategy", "values sent", "‖noise in ΔW‖, 1 step", "whole run", "grows with", title=title)
    for item in sent:
        row: Release = item
        table.add_row(
            row.strategy, str(row.values), f"{row.noise_after_one_step:.2e}", f"{row.noise_after_run:.2e}", row.growth
        )
    return table


@ledger_app.command()
def show(
    site: SiteFolder, delta: Annotated[float, typer.Option(help="δ of ε.")] = 1e-5, as_json: AsJson = False
) -> None:
    """Show ε by dataset and run, composed over everything that was ever charged (one example added or removed).

    Exit status 1 if a ledger cannot be trusted: then its figures are lower bounds, and more may have been spent.
    """
    chains = {name: inspect_ledger(LedgerFiles(site, name)) for name in _datasets(site)}
    rows = [row for name, chain in chains.items() for row in _spent(name, chain, delta)]
    damaged = {name: chain.problem for name, chain in chains.items() if chain.problem}
    if as_json:
        typer.echo(json.dumps({"adjacency": ADJACENCY, "delta": delta, "spent": rows, "damaged": damaged}))
    else:
        _show(rows, damaged, delta)
    if damaged:
        raise typer.Exit(1)


def _show(rows: list[dict[str, Any]], damaged: dict[str, str], delta: float) -> None:
    table = Table(
        "dataset", "run", "charges", "answers", f"ε at δ {delta:g}", "noise", title="add or remove one example"
    )
    for row in rows:
        noise = "secure" if row["secure"] else "INSECURE (seeded)"
        table.add_row(
            row["dataset"], row["run"], str(row["charges"]), str(row["answers"]), at_most(row["epsilon"]), noise
        )
    Console().print(table)
    for name, problem in damaged.items():
        typer.secho(f"{name}: DAMAGED: {problem}. More may have been spent than is shown.", fg="red", err=True)


@ledger_app.command()
def verify(site: SiteFolder, as_json: AsJson = False) -> None:
    """Verify every ledger's chain and anchor. Exit status 1 if a ledger cannot be trusted; only entries that are
    certain are counted."""
    rows = []
    for name in _datasets(site):
        chain = inspect_ledger(LedgerFiles(site, name))
        rows.append(
            {
                "dataset": name,
                "entries": len(chain.entries),
                "torn_bytes": chain.torn_bytes,
                "problem": chain.problem,
                "head": chain.head,
            }
        )
    if as_json:
        typer.echo(json.dumps(rows))
    for row in () if as_json else rows:
        torn = f"; {row['torn_bytes']} bytes of an unfinished line, which does not count" if row["torn_bytes"] else ""
        verdict = f"DAMAGED: {row['problem']}; certain before it:" if row["problem"] else "sound:"
        typer.echo(f"{row['dataset']}: {verdict} {row['entries']} entries, head {str(row['head'])[:16]}{torn}")
    if any(row["problem"] for row in rows):
        raise typer.Exit(1)


@ledger_app.command()
def export(
    site: SiteFolder,
    dataset: Annotated[str | None, typer.Option(help="The dataset; not needed if there is only one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print every entry that is certain, as CSV, or with --json as one JSON object per line."""
    names = _datasets(site)
    chosen = dataset or (names[0] if len(names) == 1 else "")
    if chosen not in names:
        raise SettingsError(f"choose one of this site's datasets with --dataset: {', '.join(names)}.")
    chain = inspect_ledger(LedgerFiles(site, chosen))
    rows = [{"sequence": e.sequence, **e.fields, "digest": e.digest} for e in chain.entries]
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row, sort_keys=True))
    else:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        writer = csv.DictWriter(sys.stdout, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    if chain.problem:
        typer.secho(f"not complete: {chain.problem}", fg="red", err=True)
        raise typer.Exit(1)


def _datasets(site: Path) -> list[str]:
    names = datasets(site)
    if not names:
        raise SettingsError(
            f"{site} contains no ledger (no privacy/*/ledger.jsonl); give a site's folder, or what its client.yaml "
            f"calls `state`.{did_you_mean(site)}"
        )
    return names


def _spent(dataset: str, chain: Chain, delta: float) -> list[dict[str, Any]]:
    charges = [entry.fields for entry in chain.entries if entry.kind == "charge"]
    answers = [entry.fields["task"] for entry in chain.entries if entry.kind == "answer"]
    carried = [(f"carried from {e.fields['from'] or 'elsewhere'}", [e]) for e in chain.entries if e.kind == "carried"]
    runs = list(dict.fromkeys(fields["run"] for fields in charges))
    groups = [(run, [e for e in chain.entries if e.fields.get("run") == run]) for run in runs]
    rows = []
    for run, entries in [*carried, *groups, ("all runs together", chain.entries)]:
        of_run = [entry.fields for entry in entries if entry.kind == "charge"]
        rows.append(
            {
                "dataset": dataset,
                "run": run,
                "charges": len(of_run),
                "answers": sum(task in {fields["task"] for fields in of_run} for task in answers),
                "epsilon": spent_of(entries).epsilon(delta=delta),
                "secure": all(fields["secure"] for fields in of_run),
            }
        )
    return rows
