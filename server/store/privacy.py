"""Sites' privacy budgets, read from the store: spent, total, left, and when they run out."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, desc, select

from fedlora.privacy.accounting import Event
from fedlora.privacy.receipt import Receipt
from server.store.forecast import Account, at_least, forecast_of, is_computed, quick_at_most, runs_out_at
from server.store.privacy_rows import ForecastRow, PrivacyRow, ReceiptRow
from server.store.spending import fingerprint_of
from server.store.spent import unconfirmed_by_account
from server.store.tables import accounts, charges, receipts, sites

PATIENCE_S = 0.4
"""Time for exact forecasts in one reading, in seconds; the other forecasts are safe bounds, and later readings compute
them exactly."""


def read_privacy(connection: Connection, *, patience_s: float = PATIENCE_S) -> list[PrivacyRow]:
    """Every ledger that has sent a receipt, the one with the least left first."""
    charged: dict[int, list[Event]] = defaultdict(list)
    for row in connection.execute(select(charges).order_by(charges.c.account_id, charges.c.rate)):
        charged[row.account_id].append(
            Event(rate=row.rate, noise_multiplier=row.noise_multiplier, steps=int(row.steps))
        )
    query = select(accounts, sites.c.name.label("site"), sites.c.kind).join(sites, sites.c.id == accounts.c.site_id)
    give_up = time.monotonic() + patience_s
    waiting = unconfirmed_by_account(connection)
    rows = [
        _row(row, charged[row["id"]], waiting.get(row["id"], 0), give_up)
        for row in connection.execute(query).mappings()
    ]
    return sorted(rows, key=lambda row: (row.left / row.budget, row.kind, row.site, row.dataset))


def read_receipts(connection: Connection, *, site: str, dataset: str, limit: int = 1000) -> list[ReceiptRow]:
    """The newest charges of a site's dataset, the newest first."""
    query = (
        select(receipts)
        .join(accounts, accounts.c.id == receipts.c.account_id)
        .join(sites, sites.c.id == accounts.c.site_id)
        .where(sites.c.name == site, accounts.c.dataset == dataset)
        .order_by(desc(receipts.c.at), desc(receipts.c.sequence))
        .limit(limit)
    )
    return [_receipt(row) for row in connection.execute(query).mappings()]


def _row(row: Mapping[Any, Any], charged: list[Event], unconfirmed: int, give_up: float) -> PrivacyRow:
    newest = Receipt.model_validate_json(row["newest"])
    account = Account(
        charged=tuple(charged),
        spent=newest.epsilon_lifetime,
        budget=newest.epsilon_allowed,
        delta=newest.delta_lifetime,
        next_round=Event(rate=newest.rate, noise_multiplier=newest.noise_multiplier, steps=newest.steps),
        unconfirmed=unconfirmed,
    )
    forecast, at_most = _forecast(account, row, give_up)
    return PrivacyRow(
        account=row["id"],
        site=row["site"],
        kind=row["kind"],
        dataset=row["dataset"],
        key=fingerprint_of(row["public_key"]),
        epsilon=newest.epsilon_lifetime,
        delta=newest.delta_lifetime,
        at_most=at_most,
        unconfirmed=unconfirmed,
        budget=newest.epsilon_allowed,
        left=max(0.0, newest.epsilon_allowed - at_most),
        epsilon_run=newest.epsilon_run,
        delta_run=newest.delta,
        run=newest.run,
        adjacency=newest.adjacency,
        unit=newest.unit,
        noise_multiplier=newest.noise_multiplier,
        rate=newest.rate,
        clip=newest.clip,
        steps=newest.steps,
        receipts=row["receipts"],
        insecure=row["insecure"],
        unverified=row["unverified"],
        first_at=row["first_at"],
        last_at=row["last_at"],
        sequence=newest.sequence,
        digest=newest.digest,
        forecast=forecast,
    )


def _forecast(account: Account, row: Mapping[Any, Any], give_up: float) -> tuple[ForecastRow, float]:
    """When the budget runs out, and what has been spent at most: exact, or bounds that are safe."""
    exact = is_computed(account) or time.monotonic() < give_up
    forecast = forecast_of(account) if exact else None
    count = forecast.rounds_left if forecast is not None else at_least(account)
    told = ForecastRow(
        rounds_left=count,
        runs_out_at=runs_out_at(count, receipts=row["receipts"], first_at=row["first_at"], last_at=row["last_at"]),
        exact=exact,
        complete=None if forecast is None else forecast.complete,
    )
    return told, quick_at_most(account) if forecast is None else forecast.at_most


def _receipt(row: Mapping[Any, Any]) -> ReceiptRow:
    plain = json.loads(row["receipt"])
    kept = ("epsilon_run", "epsilon_lifetime", "noise_multiplier", "rate", "steps", "secure")
    told = {name: row[name] for name in ("run", "round", "at", "sequence", "digest", "verified")}
    return ReceiptRow(**told, **{name: plain[name] for name in kept})
