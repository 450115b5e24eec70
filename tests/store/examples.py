"""Runs to put into a store: two sites, and rounds with a figure that a reader can check in the head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedlora.privacy.accounting import Event, epsilon
from fedlora.privacy.receipt import Receipt, Signature, signature_in, signed_text
from fedlora.protocol.machine import Machine
from fedlora.protocol.task import Evaluation
from fedlora.tasks.guessing import ACCURACY
from server.record.records import ClientRecord, RoundRecord
from server.store.facts import RunFacts

MACHINE = Machine(fedlora="0.0.9", python="3.12.1", torch="2.9.0", flwr="1.39.0", device="cuda:0", accelerator="H100")
KEYS = {name: Ed25519PrivateKey.generate() for name in ("a", "b")}
RATE, SIGMA, STEPS, DELTA, BUDGET = 0.1, 1.5, 10, 1e-5, 4.0


def facts(run: str = "r" * 32, **changes: Any) -> RunFacts:
    values: dict[str, Any] = {
        "run": run,
        "name": "first",
        "kind": "simulation",
        "coordinator": "local",
        "folder": "/nowhere",
        "strategy": "fedsvd",
        "recipe": {"name": "first"},
        "versions": {"fedlora": "0.1.0"},
        "dense_bytes": 1000,
        "rounds_wanted": 4,
        "metric": ACCURACY,
    }
    return RunFacts(**(values | changes))


def client(
    name: str, number: int, *, outcome: str = "trained", receipt: Receipt | None = None, **changes: Any
) -> ClientRecord:
    values: dict[str, Any] = {
        "client": name,
        "node": 1000 + ord(name[0]),
        "outcome": outcome,
        "code": None if outcome == "trained" else "no-answer",
        "examples": 30 if name == "a" else 10,
        "bytes_up": 100 if outcome == "trained" else 0,
        "bytes_down": 200,
        "seconds": 2.0 * number,
        "received": Evaluation(loss=1.0, accuracy=0.8 if name == "a" else 0.4, examples=3 if name == "a" else 1),
        "receipt": receipt,
        "signature": None if receipt is None else signature_of(receipt),
    }
    return ClientRecord(**(values | changes))


def record(number: int, clients: Sequence[ClientRecord] | None = None, **changes: Any) -> RoundRecord:
    values: dict[str, Any] = {
        "round": number,
        "clients": tuple([client("a", number), client("b", number)] if clients is None else clients),
        "aggregation_error": 0.5 / number,
        "evaluation": Evaluation(loss=1.0 / number, accuracy=min(1.0, 0.5 + 0.1 * number), examples=20),
        "base_version": 0,
        "seconds": 10.0,
    }
    return RoundRecord(**(values | changes))


def receipt(name: str, number: int, run: str = "r" * 32, **changes: Any) -> Receipt:
    """The receipt of a site that has trained in every round so far, and nowhere else."""
    spent = epsilon([Event(rate=RATE, noise_multiplier=SIGMA, steps=STEPS * number)], delta=DELTA)
    values: dict[str, Any] = {
        "client": name, "dataset": "default", "run": run, "round": number, "task": f"task-{number}",
        "rate": RATE, "noise_multiplier": SIGMA, "clip": 1.0, "steps": STEPS, "delta": DELTA,
        "epsilon_run": spent, "epsilon_lifetime": spent, "delta_lifetime": DELTA, "epsilon_allowed": BUDGET,
        "secure": True, "sequence": 2 * number - 1, "digest": f"{name}-{run[:4]}-{number}",
    }  # fmt: skip
    return Receipt(**(values | changes))


def signature_of(what: Receipt, name: str | None = None) -> Signature:
    found = signature_in(signed_text(what, KEYS[name or what.client]))
    assert found is not None
    return found


def private(number: int, run: str = "r" * 32) -> RoundRecord:
    return record(number, [client(name, number, receipt=receipt(name, number, run)) for name in ("a", "b")])
