"""`fedlora client ...`: what a site's administrator types."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from fedlora.config.model import LoadDtype
from fedlora.deployment.asking import Fingerprint, Yes, agree
from fedlora.deployment.enrolment import authorities_in, certificate_fingerprint, fingerprint, read_grant
from fedlora.nearest import did_you_mean

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
    from client.deployment.enroll import ask, ask_with_new_key

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
    expected: Fingerprint = None,
    yes: Yes = False,
) -> None:
    """Take the coordinator's grant; asks before another authority than the present one is trusted."""
    from client.deployment.declared import malformed
    from client.deployment.enroll import accept as take
    from client.deployment.enroll import change_of

    given = read_grant(grant)
    authority = certificate_fingerprint(authorities_in(given.ca_certificate)[-1])
    change = change_of(folder, given)
    console.print(f"The coordinator {given.coordinator} shows the certificate [bold]{authority}[/]")
    question = None
    if change.asks:
        console.print(f"This site trusts               [bold]{'; '.join(change.authorities)}[/]")
        question = "Trust the other one from now on?"
    agree(question, found=authority, expected=expected, yes=yes)
    take(folder, given, train=None if train is None else train.resolve())
    console.print(f"{given.site} takes part in {given.coordinator} at {given.address}. Compare by telephone.")
    if change.coordinator is not None:
        console.print(
            f"[yellow]client.yaml says coordinator: {change.coordinator}; the grant's address is {given.address}.[/] "
            "Change it there if the coordinator has moved."
        )
    if given.certificate is None:
        console.print("[yellow]The grant brings no certificate for this site:[/] its coordinator is of version 0.1.0.")
    if train is not None and not train.exists():
        meant = escape(did_you_mean(train))
        console.print(f"[yellow]{train.resolve()} is not there yet; `fedlora client up` needs it.[/]{meant}")
    elif train is not None and (lines := malformed(folder / "state", train)):
        console.print("[yellow]These rows of your data are left out as they are written; mend them first:[/]")
        console.print("\n".join(lines), markup=False)
    console.print(f"Read {folder / 'client.yaml'} and {folder / 'policy.yaml'}, then: fedlora client doctor, client up")


@app.command()
def up(config: Config = Path("client.yaml")) -> None:
    """Run this site's agent until it is stopped."""
    from client.deployment.agent import serve
    from client.settings import load_client
    from fedlora.processes.json_logs import log_json_lines
    from fedlora.processes.unbegun import end_where_a_thread_cannot_begin

    log_json_lines()
    end_where_a_thread_cannot_begin()
    serve(load_client(config), config)


@app.command()
def backup(
    config: Config = Path("client.yaml"),
    out: Annotated[Path | None, typer.Option(help="A new file; fedlora-SITE-DATE.tar here when not given.")] = None,
) -> None:
    """Copy keys, settings, policy and ledger into one file of mode 0600; the data are not in it."""
    from client.deployment.backup import back_up
    from client.settings import load_client

    settings = load_client(config)
    path = out or Path(f"fedlora-{settings.site}-{datetime.now(UTC):%Y%m%d-%H%M%S}.tar")
    about = back_up(settings, path)
    console.print(f"{len(about.digests)} files are in [bold]{path}[/]; the data are not.")


@app.command()
def restore(
    archive: Annotated[Path, typer.Argument(help="A backup.")],
    folder: Annotated[Path, typer.Argument(help="A new folder for the site.")],
    yes: Yes = False,
) -> None:
    """Make a site's folder of a backup, after asking whether its ledger is still the newest; nothing is overwritten."""
    from client.deployment.backup import ledgers_in
    from client.deployment.backup import restore as put_back

    about, ledgers = ledgers_in(archive)
    made = f"{datetime.fromtimestamp(about.made, UTC):%Y-%m-%d %H:%M} UTC"
    console.print(f"{archive} is the site {about.name} as of {made}.")
    for dataset, (entries, _) in ledgers.items():
        console.print(f"  the ledger of {dataset}: {entries} entries")
    if ledgers:
        console.print(
            "A ledger forgets what the site spent after this moment. If it has trained since, do not go on with this "
            "one: the coordinator's receipts show it, and it refuses the site's updates (bad-receipt). State what was "
            "spent instead: docs/deployment.md, Losing a disk."
        )
    question = f"Has {about.name} trained on nothing since {made}?" if ledgers else None
    agree(question, yes=yes)
    _, settings = put_back(archive, folder)
    console.print(
        f"{folder} is the site {about.name} again. Its data are where client.yaml says: {settings.data.train}"
    )
    console.print(f"Then: fedlora client doctor --config {folder / 'client.yaml'}, fedlora client up")


@app.command()
def doctor(
    config: Config = Path("client.yaml"),
    model: Annotated[str | None, typer.Option(help="The base model that a run will need: id or folder.")] = None,
    load_dtype: Annotated[
        LoadDtype | None,
        typer.Option(help="As the run holds it (model.load_dtype): another fingerprint. As client.yaml says."),
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Where the run cuts texts (model.max_tokens).")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check this site; every finding has its remedy. Exit status 1 if something must be mended."""
    from client.deployment.doctor import examine
    from client.deployment.wanted import Wanted
    from fedlora.deployment.findings import report

    wanted = Wanted(model, load_dtype, max_tokens)
    raise typer.Exit(report(examine(config, wanted=wanted), console, as_json=json_output))
