"""Flower messages on the coordinator's side: tasks out, reports and blobs in. Everything that comes in is untrusted."""

from __future__ import annotations

import json
from dataclasses import dataclass

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fedlora.protocol.task import BLOB_KEY, BLOB_RECORD, BLOB_STYPE, JSON_KEY, REPORT_RECORD, TASK_RECORD, Report, Task
from fedlora.protocol.versions import (
    IGNORABLE_KEY,
    PROTOCOL,
    PROTOCOL_KEY,
    NewerProtocolError,
    ignorable,
    received,
    recorded_json,
    spoken,
)

MAX_REPORT_CHARS = 65_536
UNREAD = "malformed-task"
"""A site of 0.1.0 that cannot read a task does not know its round either, and says 1."""


class BadReplyError(Exception):
    """A reply that cannot be used; `code` is stored and shown."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Reply:
    """A reply that has the right form; the blob inside is still to be decoded and validated."""

    report: Report
    blob: bytes | None
    bytes_up: int


def task_message(task: Task, blob: bytes, *, node: int, message_type: str) -> Message:
    """The message for one client."""
    return Message(task_content(task, blob), dst_node_id=node, message_type=message_type)


def task_content(task: Task, blob: bytes) -> RecordDict:
    """What a client is sent."""
    record = ConfigRecord({JSON_KEY: recorded_json(task), PROTOCOL_KEY: PROTOCOL})
    if skippable := ignorable(task):
        record[IGNORABLE_KEY] = skippable
    return RecordDict({TASK_RECORD: record, BLOB_RECORD: ArrayRecord({BLOB_KEY: packed(blob)})})


def read_reply(message: Message, *, round_number: int, max_examples: int) -> Reply:
    """Validate one reply's form by itself. BadReplyError with a code on anything unexpected."""
    if message.has_error():
        raise BadReplyError("client-error")
    if not set(message.content.keys()) <= {REPORT_RECORD, BLOB_RECORD}:
        raise BadReplyError("unexpected-content")  # nobody would read it, and it is held until the round ends
    try:
        record = message.content.config_records[REPORT_RECORD]
        text = record[JSON_KEY]
        if not isinstance(text, str) or len(text) > MAX_REPORT_CHARS:
            raise BadReplyError("malformed-report")
        report = parse_report(text, protocol=_protocol(record))
        size = len(recorded_json(report, without=["seconds"]))  # a timing's digits would make equal runs differ
    except KeyError:
        raise BadReplyError("malformed-reply") from None
    if report.round != round_number and (report.outcome, report.code) != ("failed", UNREAD):
        raise BadReplyError("wrong-round")
    if report.outcome != "trained":
        return Reply(report, None, size)
    if not 1 <= report.examples <= max_examples:
        raise BadReplyError("examples-out-of-range")
    blob = _blob(message)
    return Reply(report, blob, size + len(blob))


def parse_report(text: str, *, protocol: int = 1) -> Report:
    """The report in `text`, of somebody who speaks `protocol`; BadReplyError on anything that is not one."""
    try:
        values = json.loads(text)
        json.dumps(values, ensure_ascii=False).encode()  # half a surrogate pair could never be written down again
        return received(Report, values, spoken=protocol)
    except NewerProtocolError:
        raise BadReplyError("newer-protocol") from None
    except (ValueError, RecursionError):  # SettingsError is a ValueError
        raise BadReplyError("malformed-report") from None


def _protocol(record: ConfigRecord) -> int:
    try:
        return spoken(record)
    except ValueError:
        raise BadReplyError("malformed-report") from None


def packed(blob: bytes) -> Array:
    """One packed blob as one Flower array of our own type: a strategy that would average it fails instead."""
    return Array(dtype="uint8", shape=(len(blob),), stype=BLOB_STYPE, data=blob)


def _blob(message: Message) -> bytes:
    try:
        record = message.content.array_records[BLOB_RECORD]
        array = record[BLOB_KEY]
    except KeyError:
        raise BadReplyError("malformed-reply") from None
    if len(record) != 1:
        raise BadReplyError("unexpected-content")
    if array.stype != BLOB_STYPE or not isinstance(array.data, bytes):
        raise BadReplyError("malformed-reply")
    return array.data
