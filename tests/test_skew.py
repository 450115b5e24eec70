"""Versions that work together: what 0.1.0 wrote is read, what is written for it is what it reads, and newer is refused.

tests/fixtures/0.1.0 was recorded with the code of that release (tests/fixtures/record.py says how).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import jsonschema
import pytest
import yaml
from flwr.app import ConfigRecord, Message, RecordDict

import server.replies.messages
from client.messages import read_task, reply_message, unreadable
from fedlora import __version__
from fedlora.config import Recipe, TrainSettings, load
from fedlora.privacy.chain import read_chain
from fedlora.privacy.guard import task_digest
from fedlora.privacy.receipt import Receipt, require_receipt, signature_in, signed_text, verified
from fedlora.privacy.signing import load_or_create_key
from fedlora.protocol.machine import Machine
from fedlora.protocol.task import JSON_KEY, REPORT_RECORD, TASK_RECORD, Report, Task
from fedlora.protocol.versions import PROTOCOL, NewerProtocolError, Since, agreed, ignorable, recorded, recorded_json
from fedlora.settings import SettingsError, parse
from fedlora.tasks.registry import task_named
from fedlora.units_path import units_folder
from server.record.journal import Journal
from server.replies.messages import BadReplyError, parse_report, read_reply, task_message
from server.runs.submissions import Status, Submission, read_status, read_submission, submit
from server.store.importing import import_run
from server.store.opening import open_store
from server.store.privacy import read_privacy
from server.store.reading import read_rounds, read_runs
from server.store.spending import verify_account
from server.trust.provision import initialise
from simulations.local_grid import LocalGrid
from tests.federations import run
from tests.fixtures.record import STATE, fields_of, models_in

OLD = Path(__file__).parent / "fixtures" / "0.1.0"
FIELDS: dict[str, dict[str, Any]] = json.loads((OLD / "fields.json").read_text())
SCHEMAS: dict[str, Any] = json.loads((OLD / "schemas.json").read_text())
KINDS = {
    "Task": Task,
    "Report": Report,
    "Recipe": Recipe,
    "Receipt": Receipt,
    "Submission": Submission,
    "Status": Status,
}
TASKS = ("private", "plain")
SIDE_BY_SIDE = {f"received.{metric.name}" for metric in task_named("sequence-classification").metrics}
"""Fields of 0.1.0 that are a task's metrics now: they travel under these names, and `metrics` does not travel."""


@pytest.fixture(autouse=True)
def flower():
    """A grid, without which Flower makes no message outside its own processes."""
    return LocalGrid(lambda message, context: message, nodes=1, run_config={})


def require_understood(values: Any, kind: str) -> None:
    """What 0.1.0 would say of it: its own schema, in which nothing may be that it does not name."""
    jsonschema.validate(values, SCHEMAS[kind])


# What 0.1.0 wrote


@pytest.mark.parametrize("name", TASKS)
def test_a_recorded_task_is_read_and_is_the_same_task(name):
    text = (OLD / f"task-{name}.json").read_text()
    task, blob = read_task(from_the_wire(text))
    assert blob == STATE
    assert json.loads(recorded_json(task)) == json.loads(text)
    assert task_digest(task, STATE) == (OLD / f"task-{name}.digest").read_text().strip()


@pytest.mark.parametrize("name", TASKS)
def test_a_recorded_report_is_read_and_its_receipt_verified(name):
    text = (OLD / f"report-{name}.json").read_text()
    report = parse_report(text)
    assert report.machine.words.startswith("fedlora 0.1.0 on cuda:0, NVIDIA H100")
    if name == "private":
        receipt = verified(report.receipt)
        assert (receipt.client, receipt.round, receipt.noise_multiplier) == ("white", 2, 2.0)
        assert signature_in(report.receipt) is not None


def test_the_recorded_store_is_opened_shown_and_verified(tmp_path):
    shutil.copy(OLD / "store.db", tmp_path / "store.db")
    store = open_store(tmp_path / "store.db")
    with store.reading() as connection:
        runs = {found.name: found for found in read_runs(connection)}
        assert set(runs) == {"plain", "private"}
        assert [line.round for line in read_rounds(connection, runs["private"])] == [1, 2]
        accounts = [row.account for row in read_privacy(connection)]
        assert len(accounts) == 4
        assert [verify_account(connection, account) for account in accounts] == [[]] * 4
    store.close()


def test_the_recorded_run_goes_on_from_its_checkpoint_and_is_imported(tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(OLD / "run", folder)
    recipe = load(folder / "recipe.yaml")
    journal = Journal(folder, recipe)
    assert journal.resume().round == 2
    assert {client for client, _ in journal.receipts()} == {"blue", "green", "red", "white"}
    assert read_submission(folder).attempts == 1
    assert read_status(folder).why == "stopped by ada"
    store = open_store(tmp_path / "new.db")
    with store.writing() as connection:
        assert import_run(connection, folder, name="private", who="ada", now=2e9).new_rounds == 2
    store.close()


def test_the_recorded_ledger_is_one_unbroken_chain():
    chain = read_chain((OLD / "ledger.jsonl").read_bytes())
    assert (chain.problem, chain.torn_bytes) == (None, 0)
    assert [entry.kind for entry in chain.entries] == ["charge", "answer", "charge", "answer"]


# What is written for 0.1.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_that_was_added_says_since_when_and_none_was_taken_away(kind):
    """Without `Since` a field would travel always, and an older version would refuse every message."""
    now, then = fields_of(KINDS[kind]), FIELDS[kind]
    gone = SIDE_BY_SIDE if kind == "Report" else set()
    assert then.keys() - now.keys() == gone, "a version that is served still sends these"
    added = {path for path in now.keys() - then.keys() if path.rpartition(".")[0] in {"", *then}}
    added -= {"received.metrics"}
    for path in added:
        since = since_of(KINDS[kind], path.split("."))
        assert since is not None, f"annotate {kind}.{path} with Since({PROTOCOL})"
        assert 1 < since.protocol <= PROTOCOL
        assert now[path] != "(required)", f"{kind}.{path} needs a default: what a version without it does"


def test_what_reports_leave_out_has_not_changed():
    now = fields_of(Report)
    then = {path: default for path, default in FIELDS["Report"].items() if path not in SIDE_BY_SIDE}
    assert {path: now[path] for path in then} == then


@pytest.mark.parametrize(
    "path", sorted((units_folder() / "simulations" / "recipes").glob("*.yaml")), ids=lambda p: p.stem
)
def test_packaged_recipes_are_written_as_0_1_0_reads_them(path):
    """A run that a newer coordinator began goes on after a roll-back: its recipe is read, and its checkpoint's fits.
    One of a task that came later is refused, by the task's name."""
    if load(path).model.task == "sequence-classification":
        require_understood(recorded(load(path)), "Recipe")
        return
    with pytest.raises(jsonschema.ValidationError, match="'sequence-classification' was expected"):
        require_understood(recorded(load(path)), "Recipe")


def test_a_submitted_recipe_is_what_an_older_coordinator_reads(tmp_path, recipe):
    settings = initialise(tmp_path / "net", name="net", address="localhost:9092")
    folder = submit(settings, recipe("privacy.epsilon=2"), name="one")
    require_understood(yaml.safe_load((folder / "recipe.yaml").read_text()), "Recipe")
    require_understood(json.loads((folder / "submission.json").read_text()), "Submission")


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("strategy.name=fedsa", "wire.codec=auto"),
        ("strategy.name=hetlora", "devices.blue.r=1", "devices.others.r=2"),
        ("privacy.epsilon=4", "privacy.adapt={below: 0.9}", "wire.download=changes", "wire.download_codec=int8"),
    ],
    ids=["defaults", "personal", "devices", "private"],
)
def test_every_message_of_a_whole_run_is_one_that_0_1_0_understands(tmp_path, recipe, monkeypatch, overrides):
    """Both ways; sites speak as to a coordinator of 0.1.0, which does not say what it speaks."""
    read, tasks, reports = read_reply, [], []

    def spy(node: int, message: Message) -> None:
        record = message.content.config_records[TASK_RECORD]
        tasks.append(json.loads(str(record[JSON_KEY])))
        del record["protocol"]

    def listen(message: Message, **bounds: Any) -> Any:
        reports.append(json.loads(str(message.content.config_records[REPORT_RECORD][JSON_KEY])))
        return read(message, **bounds)

    monkeypatch.setattr("server.replies.intake.read_reply", listen)
    run(recipe("rounds.count=2", *overrides), tmp_path / "run", faults=spy)
    assert len(tasks) == len(reports) == 8
    for task in tasks:
        require_understood(task, "Task")
        assert {path for path in FIELDS["Task"] if "." not in path} == set(task), "its own defaults fill nothing in"
    for report in reports:
        require_understood(report, "Report")
        assert report["outcome"] == "trained"
        if report.get("receipt"):
            require_understood(json.loads(report["receipt"])["receipt"], "Receipt")


# A version after this one


class NewerTrain(TrainSettings):
    padding: Annotated[int | None, Since(PROTOCOL + 1)] = None
    hint: Annotated[str, Since(PROTOCOL + 1, ignorable=True)] = ""


class NewerTask(Task):
    """A task of the next protocol: one field that counts and one that may be ignored, deep inside."""

    train: NewerTrain


class NewerReport(Report):
    battery: Annotated[float | None, Since(PROTOCOL + 1)] = None
    machine: Machine | None = None


def newer_task(**train: Any) -> NewerTask:
    values = json.loads((OLD / "task-private.json").read_text())
    return NewerTask.model_validate({**values, "train": {**values["train"], **train}})


def from_the_wire(text: str, **beside: Any) -> Message:
    """A task's message, as it comes from a coordinator that wrote this."""
    blob = server.replies.messages.packed(STATE)
    content = RecordDict({TASK_RECORD: ConfigRecord({JSON_KEY: text, **beside})})
    content["blob"] = server.replies.messages.ArrayRecord({"blob": blob})
    return Message(content, dst_node_id=1, message_type="train")


@pytest.fixture
def next_version(monkeypatch):
    """The coordinator is one protocol ahead; the site is this code."""
    monkeypatch.setattr("server.replies.messages.PROTOCOL", PROTOCOL + 1)
    return lambda **train: task_message(newer_task(**train), STATE, node=1, message_type="train")


def test_a_newer_coordinator_is_served_as_long_as_it_asks_nothing_new(next_version):
    task, _ = read_task(next_version())
    assert type(task) is Task
    assert task_digest(task, STATE) == (OLD / "task-private.digest").read_text().strip()
    assert agreed(newer_task()) == agreed(task)


def test_what_a_site_does_not_know_is_refused_in_words_that_name_versions_and_setting(next_version):
    message = next_version(padding=8)
    with pytest.raises(NewerProtocolError) as refused:
        read_task(message)
    assert str(refused.value) == (
        f"the message is of protocol {PROTOCOL + 1}, this is fedlora {__version__} with protocol {PROTOCOL}: it has "
        "train.padding, which this version does not know. Upgrade fedlora on this side, or remove these settings "
        "from the recipe."
    )
    answer = reply_message(message, unreadable(message, refused.value, client="red"), None)
    report = read_reply(answer, round_number=2, max_examples=10).report
    assert (report.client, report.outcome, report.code, report.round) == ("red", "refused", "newer-protocol", 2)
    require_understood(json.loads(str(answer.content.config_records[REPORT_RECORD][JSON_KEY])), "Report")


def test_a_site_of_0_1_0_that_could_not_read_its_task_is_said_to_have_been_unable_to():
    """It says round 1 in whatever round it is; anything else of another round is not of this one."""

    def said(**values: Any) -> Message:
        report = Report.model_validate({"client": "red", "outcome": "failed", "round": 1, **values})
        return reply_message(from_the_wire("{}"), report, b"update")

    reply = read_reply(said(code="malformed-task"), round_number=4, max_examples=10)
    assert (reply.report.code, reply.blob) == ("malformed-task", None)
    for values in ({"code": "settings"}, {"outcome": "trained", "code": "malformed-task", "examples": 3}):
        with pytest.raises(BadReplyError, match="wrong-round"):
            read_reply(said(**values), round_number=4, max_examples=10)


def test_what_its_sender_marks_ignorable_is_done_without_and_changes_no_digest(next_version):
    message = next_version(hint="later")
    assert ignorable(newer_task(hint="later")) == ["train.hint"]
    task, _ = read_task(message)
    assert agreed(newer_task(hint="later")) == agreed(task)
    with pytest.raises(NewerProtocolError, match=r"it has train.padding, which this version does not know"):
        read_task(next_version(hint="later", padding=8))


def test_a_new_value_of_a_known_setting_is_refused_as_newer_too():
    text = (OLD / "task-plain.json").read_text().replace('"optimizer":"sgd"', '"optimizer":"lion"')
    with pytest.raises(NewerProtocolError, match="it has values that this version does not know"):
        read_task(from_the_wire(text, protocol=PROTOCOL + 1))
    with pytest.raises(SettingsError, match=r"train\.optimizer"):
        read_task(from_the_wire(text))


@pytest.mark.parametrize("beside", [{}, {"protocol": 1}, {"protocol": PROTOCOL}])
def test_an_unknown_field_of_a_version_that_is_no_newer_is_malformed(beside):
    text = json.dumps({**json.loads((OLD / "task-plain.json").read_text()), "colour": "red"})
    with pytest.raises(SettingsError, match="unknown setting colour"):
        read_task(from_the_wire(text, **beside))
    message = from_the_wire(text, **beside)
    answer = reply_message(message, unreadable(message, SettingsError("x"), client="red"), None)
    report = read_reply(answer, round_number=1, max_examples=10).report
    assert (report.outcome, report.code) == ("failed", "malformed-task")


@pytest.mark.parametrize(
    "beside", [{"protocol": 0}, {"protocol": -1}, {"protocol": "3"}, {"protocol": 10**9}, {"protocol": 1.5},
               {"ignorable": "train"}, {"ignorable": 3}]
)  # fmt: skip
def test_a_version_or_a_list_that_is_none_is_malformed_on_both_sides(beside):
    message = from_the_wire((OLD / "task-plain.json").read_text(), **beside)
    with pytest.raises((ValueError, TypeError)):
        read_task(message)
    report = unreadable(message, ValueError(), client="red")
    answer = reply_message(message, report, None)
    if "protocol" in beside:
        answer.content.config_records[REPORT_RECORD]["protocol"] = beside["protocol"]
        with pytest.raises(BadReplyError, match="malformed-report"):
            read_reply(answer, round_number=1, max_examples=10)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"round": "x"}', '{"round": true}', '{"round": -5}', "[" * 100_000])
def test_an_answer_to_what_is_no_task_is_a_report_all_the_same(text):
    message = from_the_wire(text)
    with pytest.raises((ValueError, KeyError, TypeError)) as refused:
        read_task(message)
    assert unreadable(message, refused.value, client="red").code == "malformed-task"


def test_a_newer_site_tells_an_older_coordinator_nothing_that_it_does_not_know():
    report = NewerReport(client="red", outcome="failed", code="settings", round=3, battery=0.5)
    for protocol in (None, 1, PROTOCOL, PROTOCOL + 1):
        message = from_the_wire("{}", **({} if protocol is None else {"protocol": protocol}))
        told = json.loads(str(reply_message(message, report, None).content.config_records[REPORT_RECORD][JSON_KEY]))
        assert ("battery" in told) == (protocol == PROTOCOL + 1)


def test_a_report_of_a_newer_protocol_that_cannot_be_read_is_said_to_be_one():
    text = '{"client": "red", "outcome": "failed", "code": "settings", "round": 1, "battery": 0.5}'
    with pytest.raises(BadReplyError, match="newer-protocol"):
        parse_report(text, protocol=PROTOCOL + 1)
    with pytest.raises(BadReplyError, match="malformed-report"):
        parse_report(text, protocol=PROTOCOL)


def test_a_receipt_with_a_later_field_at_its_default_is_signed_as_before(tmp_path):
    class NewerReceipt(Receipt):
        padding: Annotated[int | None, Since(PROTOCOL + 1)] = None

    values = json.loads(json.loads((OLD / "report-private.json").read_text())["receipt"])["receipt"]
    text = signed_text(parse(NewerReceipt, values), load_or_create_key(tmp_path / "key.pem"))
    assert require_receipt(text, **asked_of(values)) == parse(Receipt, values)


def asked_of(values: dict[str, Any]) -> dict[str, Any]:
    return {"client": values["client"], "run": values["run"], "round_number": values["round"], "task": values["task"]}


def since_of(model: type, path: list[str]) -> Since | None:
    """The annotation of a field, by its path through models."""
    field = model.model_fields[path[0]]
    if len(path) == 1:
        return next((item for item in field.metadata if isinstance(item, Since)), None)
    inner = [kind for kind in models_in(field.annotation) if path[1] in kind.model_fields]
    return since_of(inner[0], path[1:])
