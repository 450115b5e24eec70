"""`fedlora dashboard`: serve it, and manage who may use it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from server.dashboard.doors.access import Access, Role, access_path
from server.store.opening import store_here

app = typer.Typer(invoke_without_command=True, add_completion=False, help="Watch and control runs in a browser.")
users = typer.Typer(no_args_is_help=True, add_completion=False, help="Who may log in.")
tokens = typer.Typer(no_args_is_help=True, add_completion=False, help="API tokens, for scripts and Prometheus.")
app.add_typer(users, name="user")
app.add_typer(tokens, name="token")

Store = Annotated[
    str | None,
    typer.Option(help="URL or file; FEDLORA_STORE, server.yaml's or runs/fedlora.db when not given."),
]
AccessFile = Annotated[
    Path | None, typer.Option("--access", help="File with users and tokens; beside a SQLite store when not given.")
]
Granted = Annotated[Role, typer.Option(help="viewer reads; operator also acts; admin also removes runs.")]
console = Console(highlight=False, soft_wrap=True)


@app.callback()
def dashboard(
    context: typer.Context,
    store: Store = None,
    access: AccessFile = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any address other than loopback needs users and TLS.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8470,
    open_browser: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM, readable only by its owner.")] = None,
    plain_http: Annotated[
        bool,
        typer.Option(
            "--plain-http", help="Allow other addresses than loopback without TLS: a proxy in front provides it."
        ),
    ] = False,
    allow_simulations: Annotated[
        bool,
        typer.Option("--allow-simulations", help="Let operators start simulations, which run with your permissions."),
    ] = False,
    files: Annotated[
        Path | None,
        typer.Option(help="The only folder in which their recipes may name data and models; none if not given."),
    ] = None,
) -> None:
    """Serve the dashboard until Ctrl-C."""
    if context.invoked_subcommand is not None:
        return
    from server.dashboard.serve import BindConfig, Starting, serve

    listening = BindConfig(host, port, tls_cert, tls_key, plain_http)
    starting = Starting(allow_simulations, files)
    known = accounts(store, access)
    serve(store or store_here(), listening, known, starting=starting, show=typer.echo, browser=open_browser)


@users.command("add")
def add_user(
    name: Annotated[str, typer.Argument(help="Small letters, digits, hyphens.")],
    role: Granted = Role.VIEWER,
    store: Store = None,
    access: AccessFile = None,
) -> None:
    """Add a user, or change a user's role and password. The password is asked for, or read from the first line of
    standard input."""
    if sys.stdin.isatty():
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\n")
    accounts(store, access).add_user(name, role, password)
    console.print(f"{name} may log in as {role.value}.")


@users.command("list")
def list_users(store: Store = None, access: AccessFile = None) -> None:
    """List all users and their roles."""
    table = Table("user", "role", "since")
    for name, user in sorted(accounts(store, access).now().users.items()):
        table.add_row(name, user.role.value, f"{user.created:%Y-%m-%d %H:%M} UTC")
    console.print(table)


@users.command("rm")
def remove_user(
    name: Annotated[str, typer.Argument(help="The user to remove; `user list` shows all.")],
    store: Store = None,
    access: AccessFile = None,
) -> None:
    """Remove a user; open sessions end at once."""
    accounts(store, access).remove_user(name)
    console.print(f"{name} is removed.")


@tokens.command("add")
def add_token(
    name: Annotated[str, typer.Argument(help="What it is for: small letters, digits, hyphens.")],
    role: Granted = Role.VIEWER,
    days: Annotated[int, typer.Option(min=1, max=3650, help="Until it expires.")] = 365,
    store: Store = None,
    access: AccessFile = None,
) -> None:
    """Create an API token and print it once: send it as `Authorization: Bearer TOKEN`."""
    typer.echo(accounts(store, access).add_token(name, role, days=days))


@tokens.command("list")
def list_tokens(store: Store = None, access: AccessFile = None) -> None:
    """List all tokens, without their secrets."""
    table = Table("token", "role", "since", "expires")
    for name, token in sorted(accounts(store, access).now().tokens.items()):
        expires = "never" if token.expires is None else f"{token.expires:%Y-%m-%d}"
        table.add_row(name, token.role.value, f"{token.created:%Y-%m-%d}", expires)
    console.print(table)


@tokens.command("rm")
def remove_token(
    name: Annotated[str, typer.Argument(help="The token to remove; `token list` shows all.")],
    store: Store = None,
    access: AccessFile = None,
) -> None:
    """Remove a token; it is refused at once."""
    accounts(store, access).remove_token(name)
    console.print(f"{name} is removed.")


def accounts(store: str | None, access: Path | None) -> Access:
    return Access(access or access_path(store or store_here()))
