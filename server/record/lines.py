"""rounds.jsonl: a record becomes a line, and a line a record, here and nowhere else.

What needs receipts or a count alone reads the lines without making records of them (`sent.py`, `receipts.py`).

Guarantee: what is read back equals what was written, whatever the round was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from fedlora.config import DeviceSettings
from fedlora.privacy.receipt import Receipt, Signature
from fedlora.protocol.machine import Machine
from fedlora.protocol.task import Evaluation
from fedlora.protocol.versions import recorded
from fedlora.settings import Settings, SettingsError
from fedlora.wire.packing import Packing
from server.record.records import ClientRecord, RoundRecord

PARTS: Mapping[str, type[Settings]] = {
    "evaluation": Evaluation,
    "received": Evaluation,
    "packing": Packing,
    "resources": DeviceSettings,
    "machine": Machine,
    "receipt": Receipt,
    "signature": Signature,
}
"""Fields that are models of their own."""

SELDOM = ("why", "tokens", "skipped_steps", "held_as")
"""Fields of a client that stand in its line only where they say something."""

WHOLE = (Receipt, Signature, Evaluation)
"""Read with all that stands there: a signature is over it, or each key is a metric's."""

whole: Callable[[Any], dict[str, Any]] = Settings.model_dump
short: Callable[[Any], dict[str, Any]] = partial(Settings.model_dump, exclude_none=True)
WRITTEN: Mapping[type[Settings], Callable[[Any], dict[str, Any]]] = {
    Evaluation: whole, Packing: short, DeviceSettings: short, Machine: short, Receipt: recorded, Signature: whole,
}  # fmt: skip
"""How each becomes JSON: what a signature is over stays as it was signed."""


def line_of(record: RoundRecord) -> dict[str, Any]:
    """The record, and its bytes in sum for whoever reads the file."""
    clients = [_plain(client) for client in record.clients]
    for client in clients:
        for name in [name for name in SELDOM if client[name] in (None, 0)]:
            del client[name]
    whole = {**_plain(record), "clients": clients, "bytes_up": record.bytes_up, "bytes_down": record.bytes_down}
    if whole["lr"] is None:
        del whole["lr"]
    return whole


def record_of(line: Mapping[str, Any]) -> RoundRecord:
    """What `line_of` wrote; what another version wrote besides is left out, but for what a signature is over."""
    clients = tuple(ClientRecord(**_typed(ClientRecord, client)) for client in line["clients"])
    return RoundRecord(**{**_typed(RoundRecord, line), "clients": clients})


def read_records(folder: Path, *, after: int = 0) -> Iterator[RoundRecord]:
    """The rounds of a run's folder after one of them, in order; a last line that a crash cut short is left out.

    SettingsError where a line is damaged.
    """
    try:
        lines = (folder / "rounds.jsonl").read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return
    for number, line in enumerate(lines[after:], after + 1):
        try:
            yield record_of(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise SettingsError(
                f"line {number} of {folder / 'rounds.jsonl'} is damaged ({type(error).__name__}); restore the file."
            ) from None


def _plain(record: RoundRecord | ClientRecord) -> dict[str, Any]:
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return {name: WRITTEN[type(value)](value) if type(value) in WRITTEN else value for name, value in values.items()}


def _typed(kind: type[RoundRecord] | type[ClientRecord], values: Mapping[str, Any]) -> dict[str, Any]:
    found = {field.name: values[field.name] for field in fields(kind) if field.name in values}
    models = {name: model for name, model in PARTS.items() if found.get(name) is not None}
    return {**found, **{name: model.model_validate(_known(model, found[name])) for name, model in models.items()}}


def _known(model: type[Settings], values: Mapping[str, Any]) -> Mapping[str, Any]:
    return values if model in WHOLE else {name: values[name] for name in model.model_fields if name in values}
