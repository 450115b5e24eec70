"""`fedlora admin ...`: who takes part, and what that stands on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedlora.deployment.asking import Fingerprint, Yes, agree
from fedlora.deployment.enrolment import certificate_fingerprint, fingerprint, read_request, require_name
from fedlora.files import write_atomically
from fedlora.listing import listing

admin = typer.Typer(no_args_is_help=True, add_completion=False, help="Sites: approve, list, revoke; certificates.")

Config = Annotated[Path, typer.Option(help="The coordinator's settings.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DEFAULT = Path("server.yaml")
console = Console(highlight=False, soft_wrap=True)


@admin.command()
def init(
    folder: Annotated[Path, typer.Argument(help="A new folder for the coordinator.")],
    name: Annotated[str, typer.Option(help="Name of the coordinator: small letters, digits, hyphens.")],
    address: Annotated[str, typer.Option(help="host:port at which sites will reach it; IPv6 in brackets.")],
) -> None:
    """Create a coordinator's folder: certificate authority, server certificate, secret and settings."""
    from fedlora.deployment.checks import clock
    from server.trust.certificates import authorities
    from server.trust.provision import initialise

    settings = initialise(folder, name=name, address=address)
    told = certificate_fingerprint(authorities(settings.pki)[-1])
    console.print(f"{folder} is ready. Certificate: [bold]{told}[/]")
    if (found := clock()).grade != "good":
        console.print(
            f"[yellow]This machine's clock: {found.said}.[/] Certificates are valid from this time; if the clock "
            f"is wrong, correct it and create the folder again. {found.remedy}"
        )
    console.print(f"Start it with: fedlora server up --config {folder / 'server.yaml'}")


@admin.command()
def approve(
    request: Annotated[Path, typer.Argument(help="request.json, as the site sent it.")],
    config: Config = DEFAULT,
    out: Annotated[Path | None, typer.Option(help="Where to write the grant.")] = None,
    expected: Fingerprint = None,
    yes: Yes = False,
) -> None:
    """Approve a site (or, after a question, its new key) and write the grant to send back to it."""
    from server.settings import load_server
    from server.trust.provision import approve as accept
    from server.trust.provision import kind_of_approval
    from server.trust.told import tell

    settings, asked = load_server(config), read_request(request)
    key = fingerprint(asked.public_key)
    kind, old = kind_of_approval(settings, asked)
    console.print(f"{asked.site} requests access with the key [bold]{key}[/]")
    question = None
    if kind == "site-key-replaced":
        console.print(f"It replaces the key            [bold]{old}[/], which will be blocked permanently.")
        question = f"Replace the key of {asked.site}?"
    agree(question, found=key, expected=expected, yes=yes)
    grant = accept(settings, asked)
    path = out or Path(f"grant-{asked.site}.json")
    write_atomically(path, grant.model_dump_json(indent=2).encode())
    tell(settings, kind, site=asked.site, key=key, old_key=old if kind == "site-key-replaced" else None)
    console.print(
        f"{asked.site} is approved. Compare its key with the site by telephone. Send [bold]{path}[/] back to the site."
    )


@admin.command()
def grant(
    site: Annotated[str, typer.Argument(help="Name of an approved site.")],
    config: Config = DEFAULT,
    out: Annotated[Path | None, typer.Option(help="Where to write the grant.")] = None,
) -> None:
    """Write a new grant for a site's existing key: from a new authority, or with a new address."""
    from server.settings import load_server
    from server.trust.provision import grant_again
    from server.trust.told import tell

    settings = load_server(config)
    made = grant_again(settings, require_name(site, what="site"))
    path = out or Path(f"grant-{site}.json")
    write_atomically(path, made.model_dump_json(indent=2).encode())
    tell(settings, "site-granted-again", site=site, key=made.key)
    console.print(f"Send [bold]{path}[/] to {site}, which installs it with: fedlora client accept")


@admin.command()
def revoke(site: Annotated[str, typer.Argument(help="Name of the site.")], config: Config = DEFAULT) -> None:
    """Revoke a site: a running coordinator disconnects it at once, and its key is never accepted again."""
    from server.settings import load_server
    from server.trust.provision import read_registry
    from server.trust.provision import revoke as cut_off
    from server.trust.told import tell

    settings = load_server(config)
    cut_off(settings, require_name(site, what="site"))
    tell(settings, "site-revoked", site=site, key=fingerprint(read_registry(settings).sites[site].public_key))
    console.print(f"{site} is revoked; a running coordinator disconnects it within seconds.")


@admin.command("list")
def list_sites(config: Config = DEFAULT, json_output: Json = False) -> None:
    """List the sites: state, key, last contact and declared resources."""
    from server.flower.admitted import read_seen
    from server.requests.declared import read_declared
    from server.settings import load_server
    from server.trust.provision import read_registry

    settings = load_server(config)
    registry, declared, seen = read_registry(settings), read_declared(settings.folder), read_seen(settings.folder)
    rows = {name: {**site.model_dump(), "key": fingerprint(site.public_key)} for name, site in registry.sites.items()}
    for name, row in rows.items():
        row["seen"] = seen.get(name)
        if name in declared:
            row["resources"] = declared[name].model_dump(exclude_none=True)
    if json_output:
        typer.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        console.print(
            "No sites yet. A site creates its request with `fedlora client enroll`; then: fedlora admin approve "
            "request.json"
        )
        return
    headings = ("site", "status", "node", "last seen", "key", "resources")
    found = []
    for name, site in rows.items():
        carries = ", ".join(f"{key} {value}" for key, value in site.get("resources", {}).items())
        node = str(site["node"] or ("" if site["status"] == "revoked" else "not yet registered"))
        found.append((name, site["status"], node, moment(site["seen"]), site["key"], carries))
    leave_out = ("resources", "node", "last seen")
    first, *others = listing(headings, found, width=console.width, leave_out=leave_out)
    console.print(first, style="bold", markup=False)
    for text in others:
        console.print(text, markup=False)


@admin.command()
def renew(config: Config = DEFAULT) -> None:
    """Renew the server certificate; a running coordinator uses it at once. Sites do nothing."""
    from fedlora.deployment.environment import split_address
    from server.settings import load_server
    from server.trust.certificates import issue_server_certificate, server_certificate
    from server.trust.told import tell

    settings = load_server(config)
    issue_server_certificate(settings.pki, hosts=[split_address(settings.address)[0]])
    end = f"{server_certificate(settings.pki).not_valid_after_utc:%Y-%m-%d}"
    tell(settings, "certificate-renewed", until=end)
    console.print(f"The server certificate is renewed; it is valid until {end}.")


@admin.command("roll-authority")
def roll_authority(
    config: Config = DEFAULT,
    finish: Annotated[bool, typer.Option("--finish", help="Remove the old authority.")] = False,
    yes: Yes = False,
) -> None:
    """Replace the certificate authority: run once to start, and with --finish when every site has installed a new
    grant."""
    from server.settings import load_server
    from server.trust.rolling import begin, finish_after_asking, still_to_grant

    settings = load_server(config)
    if finish:
        console.print(f"The authority is now [bold]{finish_after_asking(settings, yes=yes)}[/] alone.")
        return
    console.print(f"The new authority: [bold]{begin(settings)}[/]. The old one is also accepted until --finish.")
    for site in still_to_grant(settings):
        console.print(f"  fedlora admin grant {site}, then at the site: fedlora client accept, restart the agent")
    console.print("Then: fedlora admin roll-authority --finish")


@admin.command("accept-new-ledger")
def accept_new_ledger(
    site: Annotated[str, typer.Argument(help="Name of the site that lost its ledger.")],
    config: Config = DEFAULT,
    dataset: Annotated[
        str | None, typer.Option(help="The dataset whose ledger is lost; required if the site has several.")
    ] = None,
    yes: Yes = False,
) -> None:
    """Accept that a site's privacy ledger is lost and that it starts a new one, which states what was spent before."""
    from fedlora.privacy.shown import at_most
    from server.settings import load_server
    from server.store.spending import fingerprint_of
    from server.trust.ledger_loss import give_up, lost_ledger, to_carry

    settings = load_server(config)
    lost = lost_ledger(settings, require_name(site, what="site"), dataset)
    receipt, waiting = lost.receipt, lost.unconfirmed
    console.print(
        f"The ledger of {site} for {receipt.dataset}, according to its newest receipt: epsilon "
        f"[bold]{at_most(receipt.epsilon_lifetime)}[/] at delta {receipt.delta_lifetime:g}, entry {receipt.sequence}, "
        f"run {receipt.run} round {receipt.round}, key {fingerprint_of(lost.public_key)}"
    )
    console.print(
        f"Sent to the site and never confirmed: {sum(item.tasks for item in waiting)} task(s), which alone cost "
        f"epsilon {to_carry(sum(item.epsilon for item in waiting))} at delta {sum(item.delta for item in waiting):g} "
        "at most."
    )
    console.print(f"Together: epsilon [bold]{to_carry(lost.epsilon)}[/] at delta {lost.delta}.")
    console.print(
        "If the ledger can be restored, have the site do that instead. Only the site knows what it spent for "
        "other coordinators after that receipt: it must add that amount."
    )
    agree(f"Give up this ledger of {site} permanently?", yes=yes)
    give_up(settings, lost)
    console.print(
        f"At the site, before it trains again: fedlora ledger carry state --dataset {receipt.dataset} --epsilon "
        f"{to_carry(lost.epsilon)} --delta {lost.delta} --reason ..., or with more."
    )


@admin.command()
def backup(
    config: Config = DEFAULT,
    out: Annotated[Path | None, typer.Option(help="A new file; fedlora-NAME-DATE.tar here when not given.")] = None,
) -> None:
    """Back up all that a new machine needs to one file of mode 0600; it contains the authority's private key."""
    from server.deployment.backup import back_up, sqlite_file
    from server.settings import load_server

    settings = load_server(config)
    path = out or archive_name(settings.name)
    about = back_up(settings, path)
    console.print(f"{len(about.digests)} files are in [bold]{path}[/]. Protect it like the authority's private key.")
    if sqlite_file(settings) is None:
        console.print("[yellow]The store is a PostgreSQL database and is not included;[/] back it up with pg_dump.")


@admin.command()
def restore(
    archive: Annotated[Path, typer.Argument(help="A backup.")],
    folder: Annotated[Path, typer.Argument(help="A new folder for the coordinator.")],
) -> None:
    """Restore a coordinator's folder from a backup; nothing is overwritten."""
    from server.deployment.backup import restore as put_back
    from server.deployment.backup import sqlite_file
    from server.trust.told import tell

    about, settings = put_back(archive, folder)
    console.print(f"{folder} is {about.name} as of {moment(about.made)}. Later changes are missing:")
    console.print("- a site that was revoked later is approved again: revoke it before you start the coordinator;")
    console.print("- a site that was approved, or changed its key, later must be approved again;")
    console.print("- later receipts are unknown: a ledger that was reset later is not noticed.")
    if (store := sqlite_file(settings)) != settings.folder / "store.db":
        console.print(
            f"[yellow]server.yaml says store: {settings.store}.[/] "
            + (
                "Restore it with its own tools."
                if store is None
                else f"Its copy is {folder / 'store.db'}: copy it there."
            )
        )
    tell(settings, "coordinator-restored", backup_of=about.made, version=about.version)
    console.print(f"The old coordinator must no longer run. Then: fedlora server up --config {folder / 'server.yaml'}")


def archive_name(name: str) -> Path:
    """The default path of a backup."""
    from datetime import UTC, datetime

    return Path(f"fedlora-{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}.tar")


def moment(at: float | None) -> str:
    """A time in words; None is `never`."""
    from datetime import UTC, datetime

    return "never" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"
