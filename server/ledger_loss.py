"""`fedlora admin accept-new-ledger`: what is held of the ledger that a site has lost, and the agreement that it is."""

from __future__ import annotations

import math
import time

from fedlora.privacy.receipt import Receipt
from fedlora.settings import SettingsError
from server.new_ledgers import Accepted, accept
from server.receipts import held_in
from server.settings import ServerSettings
from server.store.spending import fingerprint_of
from server.told import operator, tell


def lost_ledger(settings: ServerSettings, site: str, dataset: str | None) -> tuple[Receipt, str]:
    """The newest receipt of the site's ledger and the key that signed it. SettingsError if none, or several, fit."""
    held = {
        ledger: kept
        for ledger, kept in held_in(settings.runs).items()
        if ledger[0] == site and kept.receipt is not None and dataset in (None, ledger[1])
    }
    if not held:
        of_it = site if dataset is None else f"{site} for the dataset {dataset}"
        raise SettingsError(f"no receipt of {of_it} is held: a new ledger of it is taken as it is.")
    if len(held) > 1:
        names = ", ".join(sorted(name for _, name in held))
        raise SettingsError(f"{site} has several datasets: {names}. Say which has lost its ledger: --dataset NAME")
    (kept,) = held.values()
    if kept.public_key is None or kept.receipt is None:
        raise SettingsError(f"the receipts of {site} are not signed: its ledger cannot be told from another.")
    return kept.receipt, kept.public_key


def to_carry(receipt: Receipt) -> float:
    """What the site has to state, in four figures behind the point, never less than what was spent."""
    return math.ceil(receipt.epsilon_lifetime * 1e4) / 1e4


def give_up(settings: ServerSettings, receipt: Receipt, public_key: str) -> None:
    """The agreement, and its event in the audit log."""
    lost = Accepted(
        site=receipt.client,
        dataset=receipt.dataset,
        public_key=public_key,
        epsilon=receipt.epsilon_lifetime,
        delta=receipt.delta_lifetime,
        sequence=receipt.sequence,
        at=time.time(),
        who=operator(),
    )
    accept(settings.runs, lost)
    tell(
        settings, "new-ledger-accepted", site=lost.site, dataset=lost.dataset, key=fingerprint_of(public_key),
        epsilon=lost.epsilon, delta=lost.delta, sequence=lost.sequence,
    )  # fmt: skip
