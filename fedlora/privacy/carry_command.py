"""`fedlora ledger carry`: add to a dataset's ledger what was spent on its rows elsewhere. Recorded permanently."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedlora.nearest import did_you_mean
from fedlora.privacy.carried import Spent, carry_over, to_carry
from fedlora.privacy.refusal import Refusal
from fedlora.privacy.shown import at_most
from fedlora.privacy.signing import load_or_create_key
from fedlora.settings import SettingsError, read_mapping

console = Console(highlight=False, soft_wrap=True)


def carry(
    site: Annotated[Path, typer.Argument(help="The site's folder, or what its client.yaml calls `state`.")],
    dataset: Annotated[str, typer.Option(help="The dataset that the spending is added to.")],
    source: Annotated[
        str | None, typer.Option("--from", help="The dataset of this site on which it was spent.")
    ] = None,
    epsilon: Annotated[float | None, typer.Option(help="Without --from: the largest ε that was spent ...")] = None,
    delta: Annotated[float | None, typer.Option(help="... at this δ.")] = None,
    reason: Annotated[
        str | None, typer.Option(help="The reason, recorded in the ledger. Required without --from.")
    ] = None,
    at: Annotated[float, typer.Option(help="δ at which the total is shown.")] = 1e-5,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation (for scripts).")] = False,
) -> None:
    """Add to one dataset's ledger what was spent on the same rows elsewhere. This cannot be undone.

    --from OLD adds the charges of another dataset of this site that contains the same rows. --epsilon and --delta state
    spending that no ledger shows any more, such as the last ε that the coordinator knows of a lost ledger.
    """
    state = _state(site)
    spent = to_carry(state, dataset, source) if source is not None else _stated(epsilon, delta, reason)
    if source is not None and (epsilon, delta) != (None, None):
        raise SettingsError(
            "give either --from, or --epsilon with --delta and --reason; to add both, run this command twice."
        )
    what = f"what {source} has spent" if source else f"the stated epsilon {epsilon:g} at delta {delta:g}"
    total = spent.epsilon(delta=at) if source else spent.stated_epsilon
    console.print(f"{dataset} will count {what}: epsilon {at_most(total)}" + (f" at delta {at:g}." if source else "."))
    if spent.stated_delta:
        console.print(
            f"Its max_delta in policy.yaml must be above {spent.stated_delta:g} before it can train "
            "again: the stated delta is counted in."
        )
    if not yes:
        if not sys.stdin.isatty():
            raise SettingsError("this cannot be undone; run it at a terminal, or add --yes.")
        typer.confirm("This cannot be undone. Continue?", abort=True)
    key = load_or_create_key(state / "privacy" / "key.pem")
    try:
        entry = carry_over(state, dataset, spent, key=key, source=source or "", reason=reason or "")
    except (Refusal, ValueError) as error:
        raise SettingsError(str(error)) from None
    console.print(f"Entry {entry.sequence} of {dataset}'s ledger records this; see: fedlora ledger show {site}")


def _stated(epsilon: float | None, delta: float | None, reason: str | None) -> Spent:
    if epsilon is None or delta is None or not reason:
        raise SettingsError("give --from DATASET, or all of --epsilon, --delta and --reason.")
    if not (0 < epsilon < float("inf") and 0 <= delta < 1):
        raise SettingsError(f"epsilon must be above 0 and delta in [0, 1), got {epsilon} and {delta}.")
    return Spent((), epsilon, delta)


def _state(site: Path) -> Path:
    """Where the ledgers are, also where there is none yet: beside client.yaml, what it calls `state`."""
    config = site / "client.yaml"
    if config.exists():
        return site / str(read_mapping(config, f"the settings {config}").get("state", "state"))
    if not site.is_dir():
        raise SettingsError(
            f"{site} is not a folder; give the site's folder, or what its client.yaml calls "
            f"`state`.{did_you_mean(site)}"
        )
    return site
