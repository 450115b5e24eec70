"""Flower messages on the client's side: tasks in, reports and blobs out."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import lru_cache
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fedlora.protocol.task import BLOB_KEY, BLOB_RECORD, BLOB_STYPE, JSON_KEY, REPORT_RECORD, TASK_RECORD, Report, Task
from fedlora.protocol.versions import (
    IGNORABLE_KEY,
    PROTOCOL,
    PROTOCOL_KEY,
    NewerProtocolError,
    received,
    sparse_json,
    spoken,
)

MALFORMED, NEWER = "malformed-task", "newer-protocol"


def read_task(message: Message) -> tuple[Task, bytes]:
    """The task and the packed state; NewerProtocolError, or ValueError, KeyError or TypeError on anything else."""
    record = message.content.config_records[TASK_RECORD]
    may_ignore = record.get(IGNORABLE_KEY, [])
    if not isinstance(may_ignore, list):
        raise TypeError("the list of fields that may be ignored must be a list of names")
    task = parsed(str(record[JSON_KEY]), spoken(record), tuple(map(str, may_ignore)))
    array = message.content.array_records[BLOB_RECORD][BLOB_KEY]
    if array.stype != BLOB_STYPE:
        raise ValueError(f"the state's type is {array.stype!r}, expected {BLOB_STYPE!r}")
    return task, array.data


@lru_cache(maxsize=8)
def parsed(text: str, protocol: int, may_ignore: tuple[str, ...]) -> Task:
    """The task in a text. Simulated clients of one process get the same text, and share what it says: a value."""
    return received(Task, loaded(text), spoken=protocol, may_ignore=may_ignore)


def values_in(message: Message) -> Any:
    """What the task's JSON holds; ValueError or KeyError where it is none."""
    return loaded(str(message.content.config_records[TASK_RECORD][JSON_KEY]))


def loaded(text: str) -> Any:
    """ValueError where it is no JSON."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("the task's JSON is nested too deeply") from None


def unreadable(message: Message, error: Exception, *, client: str) -> Report:
    """The answer to a message that `read_task` has refused: with its round, if it says one, so that it is counted."""
    round_number = 1
    with suppress(ValueError, KeyError, TypeError):
        said = values_in(message)["round"]
        round_number = said if isinstance(said, int) and not isinstance(said, bool) and said >= 1 else 1
    if isinstance(error, NewerProtocolError):
        return Report(client=client, outcome="refused", code=NEWER, round=round_number)
    return Report(client=client, outcome="failed", code=MALFORMED, round=round_number)


def reply_message(message: Message, report: Report, blob: bytes | None) -> Message:
    """The answer: a report without what it leaves at its default or the asker would not know, and the packed update."""
    text = sparse_json(report, known=understood_by_sender(message))
    content = RecordDict({REPORT_RECORD: ConfigRecord({JSON_KEY: text, PROTOCOL_KEY: PROTOCOL})})
    if blob is not None:
        array = Array(dtype="uint8", shape=(len(blob),), stype=BLOB_STYPE, data=blob)
        content[BLOB_RECORD] = ArrayRecord({BLOB_KEY: array})
    return Message(content, reply_to=message)


def understood_by_sender(message: Message) -> int:
    """Protocol version of the sender; the oldest one if it cannot be read."""
    try:
        return spoken(message.content.config_records[TASK_RECORD])
    except (ValueError, KeyError):
        return 1
