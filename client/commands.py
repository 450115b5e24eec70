"""`fedlora client ...`: what a site's administrator types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedlora.enrolment import certificate_fingerprint, fingerprint, read_grant

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Take part with this site's data.")

Folder = Annotated[Path, typer.Argument(help="The site's folder: keys, settings, ledger.")]
Config = Annotated[Path, typer.Option(help="The site's settings.")]
console = Console(highlight=False, soft_wrap=True)


@app.command()
def enroll(
    folder: Folder,
    site: Annotated[str, typer.Option(help="Name of the site: small letters, digits, hyphens.")],
    new_key: Annotated[bool, typer.Option("--new-key", help="Replace the key of a site that takes part.")] = False,
) -> None:
    """Make this site's key and the request that goes to the coordinator."""
    from client.enroll import ask, ask_with_new_key

    request = (ask_with_new_key if new_key else ask)(folder, site=site)
    console.print(f"Send [bold]{folder / 'request.json'}[/] to the coordinator; the private key stays here.")
    console.print(f"Tell its administrator this fingerprint by telephone: [bold]{fingerprint(request.public_key)}[/]")


@app.command()
def accept(
    folder: Folder,
    grant: Annotated[Path, typer.Argument(help="grant.json, as the coordinator sent it.")],
    train: Annotated[
        Path | None, typer.Option(help="This site's training examples (CSV, JSON Lines, Parquet).")
    ] = None,
) -> None:
    """Take the coordinator's grant; writes ca.crt, client.yaml and policy.yaml."""
    from client.enroll import accept as take

    given = read_grant(grant)
    take(folder, given, train=None if train is None else train.resolve())
    console.print(f"{given.site} takes part in {given.coordinator} at {given.address}.")
    console.print(f"Compare by telephone, its certificate: [bold]{certificate_fingerprint(given.ca_certificate)}[/]")
    if train is not None and not train.exists():
        console.print(f"[yellow]{train.resolve()} is not there yet; `fedlora client up` needs it.[/]")
    console.print(f"Read {folder / 'client.yaml'} and {folder / 'policy.yaml'}, then: fedlora client doctor, client up")


@app.command()
def up(config: Config = Path("client.yaml")) -> None:
    """Run this site's agent until it is stopped."""
    from client.agent import serve
    from client.settings import load_client
    from fedlora.supervise import log_json_lines

    log_json_lines()
    serve(load_client(config), config)


@app.command()
def doctor(
    config: Config = Path("client.yaml"),
    model: Annotated[str | None, typer.Option(help="The base model that a run will need: id or folder.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check this site; every finding has its remedy. Exit status 1 if something must be mended."""
    from client.doctor import examine
    from fedlora.findings import report

    raise typer.Exit(report(examine(config, model=model), console, as_json=json_output))
