"""What must hold after the last fault, read from the files that an auditor would read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from fedlora.privacy.ledger import LedgerFiles, read_ledger
from fedlora.privacy.signing import load_or_create_key, public_text
from simulations.deployment import Deployment
from tests.chaos.report import Injected, Sound


def require_sound(deployment: Deployment, run: Path, injected: Sequence[Injected], attempts: int) -> Sound:
    """AssertionError with what is wrong; otherwise the figures."""
    records = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    assert [record["round"] for record in records] == list(range(1, len(records) + 1)), "a round is missing or doubled"
    acknowledged = charged = 0
    for name in deployment.sites:
        receipts = receipts_of(name, records)
        acknowledged += len(receipts)
        charged += require_all_charged(deployment.folder / name, name, receipts)
    require_finite(run / "adapter" / "adapter_model.safetensors")
    return Sound(tuple(injected), len(records), attempts, acknowledged, charged)


def receipts_of(name: str, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of every update of this site that was taken; none may be taken twice for one round."""
    taken = [client for record in records for client in record["clients"] if client["client"] == name]
    trained = [client for client in taken if client["outcome"] == "trained"]
    assert all(client["receipt"] for client in trained), f"{name}: an update without a receipt was taken"
    rounds = [client["receipt"]["round"] for client in trained]
    assert len(rounds) == len(set(rounds)), f"{name}: a round was taken twice"
    return [client["receipt"] for client in trained]


def require_all_charged(folder: Path, name: str, receipts: Sequence[dict[str, Any]]) -> int:
    """Every receipt is an entry of the site's unbroken ledger, word for word; returns the number of charges."""
    key = load_or_create_key(folder / "state" / "privacy" / "key.pem")
    chain = read_ledger(LedgerFiles(folder / "state", "default"), public_key=public_text(key))
    assert chain.problem is None, f"{name}: {chain.problem}"
    for receipt in receipts:
        entry = chain.entries[receipt["sequence"] - 1]
        assert entry.digest == receipt["digest"], f"{name}: the charge of round {receipt['round']} is not in the ledger"
        assert (entry.kind, entry.fields["round"]) == ("charge", receipt["round"])
    return sum(entry.kind == "charge" for entry in chain.entries)


def require_finite(path: Path) -> None:
    adapter = load_file(path)
    assert adapter, "the adapter is empty"
    assert all(bool(torch.isfinite(tensor).all()) for tensor in adapter.values()), "the adapter is not finite"
