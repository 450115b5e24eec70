"""Rounds as a run's folder has them: what a store is made up for, or rebuilt, from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from fedlora.config import DeviceSettings
from fedlora.privacy.receipt import Receipt, Signature
from fedlora.protocol.machine import Machine
from fedlora.protocol.task import Evaluation
from fedlora.settings import Settings, SettingsError
from server.record.records import ClientRecord, RoundRecord

MODELS: dict[str, type[Settings]] = {
    "received": Evaluation,
    "resources": DeviceSettings,
    "machine": Machine,
    "receipt": Receipt,
    "signature": Signature,
}


def read_journal(folder: Path, *, after: int = 0) -> Iterator[RoundRecord]:
    """The rounds of rounds.jsonl after one of them, in order; a last line that a crash cut short is left out."""
    try:
        lines = (folder / "rounds.jsonl").read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return
    for number, line in enumerate(lines[after:], after + 1):
        try:
            yield round_from(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise SettingsError(
                f"line {number} of {folder / 'rounds.jsonl'} is damaged ({type(error).__name__}); restore the file."
            ) from None


def round_from(line: Mapping[str, Any]) -> RoundRecord:
    """The record that `as_json` wrote; what another version wrote besides is left out."""
    quality = line["evaluation"]
    values = {name: line[name] for name in ("round", "aggregation_error", "base_version", "seconds")}
    return RoundRecord(
        **values,
        clients=tuple(_client_from(client) for client in line["clients"]),
        evaluation=None if quality is None else Evaluation.model_validate(quality),
    )


def _client_from(values: Mapping[str, Any]) -> ClientRecord:
    known = {field.name for field in fields(ClientRecord)}
    found = {name: value for name, value in values.items() if name in known}
    for name, model in MODELS.items():
        if found.get(name) is not None:
            found[name] = model.model_validate(found[name])
    return ClientRecord(**found)
