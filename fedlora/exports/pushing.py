"""`fedlora push`: an adapter on a hub. Nothing leaves this machine before a person has typed where it goes."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from fedlora.exports.commands import BasePlace, License, Override, Place, at_rank, through_gate, under
from fedlora.settings import SettingsError


def push(
    run: Place,
    repository: Annotated[str, typer.Argument(metavar="REPO", help="OWNER/NAME on the hub.")],
    yes: Annotated[
        bool, typer.Option("--yes-publish", help="Send it without asking; without a terminal this is the only way.")
    ] = False,
    public: Annotated[
        bool, typer.Option("--public", help="Let everybody read it; otherwise the owner's account alone may.")
    ] = False,
    base: BasePlace = None,
    license: License = None,
    override: Override = None,
) -> None:
    """Publish the adapter of RUN as REPO, with its card, in one commit: what `fedlora export` writes for PEFT.

    The login is that of `hf auth login`, the hub that of HF_ENDPOINT. What `fedlora gate` has not looked at, or holds,
    is refused, and so is a base whose licence nobody has stated.
    """
    from fedlora.exports.folder import write_for_peft
    from fedlora.exports.publishing import files_of, publish, require_passable
    from fedlora.results.opened import one_source

    source = under(one_source(run, base=base), license)
    require_passable(source, repository)
    (source,) = through_gate([source], override)
    with tempfile.TemporaryDirectory(prefix="fedlora-push-") as place:
        folder = Path(place)
        write_for_peft(folder, at_rank(source, None), source.dense, source.about)
        typer.echo(sent_said(files_of(folder), repository, public=public))
        if not yes:
            require_word(repository)
        made = publish(folder, repository, public=public)
    typer.echo(f"Published by {made.account}: {made.url}")


def sent_said(files: list[Path], repository: str, *, public: bool) -> str:
    from huggingface_hub import constants

    listed = "\n".join(f"  {file.name}  {file.stat().st_size:,} bytes" for file in files)
    readers = "everybody can read it there" if public else "private"
    return f"To {constants.ENDPOINT}, {repository} ({readers}):\n{listed}"


def require_word(repository: str) -> None:
    """The repository's name, typed; SettingsError for anything else."""
    if not at_a_terminal():
        raise SettingsError("nothing was sent: there is no terminal to ask at. Say --yes-publish.")
    typed = typer.prompt(f"Type {repository} to send it", default="", show_default=False)
    if typed.strip() != repository:
        raise SettingsError("nothing was sent: that is not the name of the repository.")


def at_a_terminal() -> bool:
    return sys.stdin.isatty()
