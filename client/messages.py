"""Flower messages on the client's side: tasks in, reports and blobs out."""

from __future__ import annotations

import json

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fedlora.settings import parse
from fedlora.task import BLOB_KEY, BLOB_RECORD, BLOB_STYPE, JSON_KEY, REPORT_RECORD, TASK_RECORD, Report, Task


def read_task(message: Message) -> tuple[Task, bytes]:
    """The task and the packed state; ValueError or KeyError on anything else."""
    task = parse(Task, json.loads(str(message.content.config_records[TASK_RECORD][JSON_KEY])))
    array = message.content.array_records[BLOB_RECORD][BLOB_KEY]
    if array.stype != BLOB_STYPE:
        raise ValueError(f"the state's type is {array.stype!r}, expected {BLOB_STYPE!r}")
    return task, array.data


def reply_message(message: Message, report: Report, blob: bytes | None) -> Message:
    """The answer: a report without what it leaves at its default, and the packed update if there is one."""
    content = RecordDict({REPORT_RECORD: ConfigRecord({JSON_KEY: report.model_dump_json(exclude_defaults=True)})})
    if blob is not None:
        array = Array(dtype="uint8", shape=(len(blob),), stype=BLOB_STYPE, data=blob)
        content[BLOB_RECORD] = ArrayRecord({BLOB_KEY: array})
    return Message(content, reply_to=message)
