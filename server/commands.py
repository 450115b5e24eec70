"""`fedlora admin ...` (who takes part) and `fedlora server ...` (what runs): what a coordinator types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from fedlora.enrolment import certificate_fingerprint, fingerprint, read_request, require_name
from fedlora.files import write_atomically
from fedlora.settings import SettingsError

admin = typer.Typer(no_args_is_help=True, add_completion=False, help="Sites: approve, list, revoke; certificates.")
server = typer.Typer(no_args_is_help=True, add_completion=False, help="Run a deployed coordinator and its runs.")

Config = Annotated[Path, typer.Option(help="The coordinator's settings.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DEFAULT = Path("server.yaml")
console = Console(highlight=False, soft_wrap=True)


@admin.command()
def init(
    folder: Annotated[Path, typer.Argument(help="A new folder for the coordinator.")],
    name: Annotated[str, typer.Option(help="Name of the coordinator: small letters, digits, hyphens.")],
    address: Annotated[str, typer.Option(help="host:port at which sites will reach it.")],
) -> None:
    """Make a coordinator: its certificate authority, server certificate, secret and settings."""
    from server.provision import initialise

    settings = initialise(folder, name=name, address=address)
    pem = (settings.pki / "ca.crt").read_text(encoding="utf-8")
    console.print(f"{folder} is ready. Certificate: [bold]{certificate_fingerprint(pem)}[/]")
    console.print(f"Start it with: fedlora server up --config {folder / 'server.yaml'}")


@admin.command()
def approve(
    request: Annotated[Path, typer.Argument(help="request.json, as the site sent it.")],
    config: Config = DEFAULT,
    out: Annotated[Path | None, typer.Option(help="Where to write the grant.")] = None,
) -> None:
    """Accept a site (or its new key) and write the grant that goes back to it."""
    from server.provision import approve as accept
    from server.settings import load_server

    asked = read_request(request)
    grant = accept(load_server(config), asked)
    path = out or Path(f"grant-{asked.site}.json")
    write_atomically(path, grant.model_dump_json(indent=2).encode())
    console.print(
        f"{asked.site} is approved. Its key, to compare by telephone: [bold]{fingerprint(asked.public_key)}[/]"
    )
    console.print(f"Send [bold]{path}[/] back to the site.")


@admin.command()
def revoke(site: Annotated[str, typer.Argument(help="Name of the site.")], config: Config = DEFAULT) -> None:
    """Cut a site off, now if the coordinator is up; its key is never accepted again."""
    from server.provision import revoke as cut_off
    from server.settings import load_server

    cut_off(load_server(config), require_name(site, what="site"))
    console.print(f"{site} is revoked; a coordinator that is up cuts it off within seconds.")


@admin.command("list")
def list_sites(config: Config = DEFAULT, json_output: Json = False) -> None:
    """Every site, its state, its key and what it declared that it can carry."""
    from server.declared import read_declared
    from server.provision import read_registry
    from server.settings import load_server

    settings = load_server(config)
    registry, declared = read_registry(settings), read_declared(settings.folder)
    rows = {name: {**site.model_dump(), "key": fingerprint(site.public_key)} for name, site in registry.sites.items()}
    for name, device in declared.items():
        if name in rows:
            rows[name]["resources"] = device.model_dump(exclude_none=True)
    if json_output:
        typer.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        console.print(
            "No sites yet. A site asks with `fedlora client enroll`; then: fedlora admin approve request.json"
        )
        return
    table = Table(*(Column(name, overflow="fold") for name in ("site", "status", "node", "key", "resources")))
    for name, site in rows.items():
        carries = ", ".join(f"{key} {value}" for key, value in site.get("resources", {}).items())
        table.add_row(name, site["status"], str(site["node"] or "not yet registered"), site["key"], carries)
    console.print(table)


@admin.command()
def renew(config: Config = DEFAULT) -> None:
    """A new server certificate from the same authority; a coordinator that is up takes it at once. Sites do nothing."""
    from fedlora.deployment import split_address
    from server.certificates import issue_server_certificate
    from server.settings import load_server

    settings = load_server(config)
    issue_server_certificate(settings.pki, hosts=[split_address(settings.address)[0]])
    console.print("The server certificate is renewed.")


@server.command()
def up(config: Config = DEFAULT) -> None:
    """Run the coordinator until it is stopped."""
    from fedlora.supervise import log_json_lines
    from server.settings import load_server
    from server.up import serve

    log_json_lines()
    serve(load_server(config), config)


@server.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="Recipe file.")],
    config: Config = DEFAULT,
    name: Annotated[str | None, typer.Option(help="Name of the run; the recipe's when not given.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key.path=value")] = None,
) -> None:
    """Submit a run; a coordinator that is up starts it, and starts it again from its checkpoint if it dies."""
    from fedlora.config import load
    from server.settings import load_server
    from server.submissions import submit

    parsed = load(recipe, overrides or [])
    if parsed.mode != "federated":
        raise SettingsError(f"mode={parsed.mode!r} is a simulation's reference; a deployed run is `federated`.")
    folder = submit(load_server(config), parsed, name=name or parsed.name)
    console.print(f"{folder.name} is submitted: {folder}. Watch it with: fedlora server logs {folder.name}")


@server.command()
def stop(name: Annotated[str, typer.Argument(help="Name of the run.")], config: Config = DEFAULT) -> None:
    """Stop a run for good; `resume` goes on with it."""
    from server.control import Control
    from server.settings import load_server
    from server.submissions import run_folder
    from server.submissions import stop as halt

    settings = load_server(config)
    halt(run_folder(settings, name), Control(settings))
    console.print(f"{name} is stopped.")


@server.command()
def resume(name: Annotated[str, typer.Argument(help="Name of the run.")], config: Config = DEFAULT) -> None:
    """Go on with a run that was stopped or given up, from its checkpoint."""
    from server.settings import load_server
    from server.submissions import resume as go_on
    from server.submissions import run_folder

    go_on(run_folder(load_server(config), name))
    console.print(f"{name} goes on.")


@server.command("list")
def list_runs(config: Config = DEFAULT, json_output: Json = False) -> None:
    """Every run: its state, rounds and attempts."""
    from server.settings import load_server
    from server.submissions import completed_rounds, look_at, runs

    rows = []
    for folder in runs(load_server(config)):
        look = look_at(folder)
        rows.append(
            {
                "run": folder.name,
                "state": look.state,
                "rounds": completed_rounds(folder),
                "attempts": look.submission.attempts,
                "why": look.why,
            }
        )
    if json_output:
        typer.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        console.print("No runs yet. Submit one with: fedlora server run RECIPE")
        return
    table = Table(Column("run", overflow="fold"), "state", "rounds", "attempts", Column("why", overflow="fold"))
    for row in rows:
        table.add_row(*(escape(str(value)) if value is not None else "" for value in row.values()))
    console.print(table)


@server.command()
def logs(
    name: Annotated[str, typer.Argument(help="Name of the run.")],
    config: Config = DEFAULT,
    lines: Annotated[int, typer.Option(help="How many of the last lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run is over.")] = False,
) -> None:
    """The run's own log: rounds, answers, and while it waits for sites, how long it still will."""
    from server.run_log import log_lines
    from server.settings import load_server
    from server.submissions import is_over, run_folder

    folder = run_folder(load_server(config), name)
    if not (folder / "run.log").exists() and not follow:
        raise SettingsError(
            f"{name} has not started: {folder / 'run.log'} is not there yet. Is `fedlora server up` running?"
        )
    for line in log_lines(folder, last=lines, until=(lambda: is_over(folder)) if follow else lambda: True):
        typer.echo(line)


@server.command()
def doctor(config: Config = DEFAULT, json_output: Json = False) -> None:
    """Check this coordinator; every finding has its remedy. Exit status 1 if something must be mended."""
    from fedlora.findings import report
    from server.doctor import examine

    raise typer.Exit(report(examine(config), console, as_json=json_output))
