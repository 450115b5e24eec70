"""Updates that are somebody else's, or of another time: each costs its sender's update, and is named."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.serverapp import Grid, ServerApp

from client.app import client_app
from client.deployed import respond
from client.deployed import signer as deployed_signer
from client.settings import ClientSettings, SiteData
from fedlora.config import Recipe
from fedlora.deployment.enrolment import make_request, new_node_key
from fedlora.privacy.policy import Policy
from fedlora.protocol.task import BLOB_KEY, BLOB_RECORD, BLOB_STYPE, JSON_KEY, REPORT_RECORD, Task
from fedlora.settings import SettingsError, parse
from fedlora.wire import update_pb2 as pb
from server.coordinate import Coordination, coordinate
from server.deployed import signed_by
from server.record.records import RoundFinished
from server.trust.provision import Registry, SiteEntry
from simulations.local_grid import Fault, LocalGrid, run_apps
from simulations.run import prepare
from simulations.sites import site_of
from tests.federations import CLIENTS, NODES

REGISTERED = {node: name for name, node in NODES.items()}
BAD = NODES["green"]


def task_of(made: Recipe, *, run: str) -> Task:
    return Task(
        run=run, round=1, rounds=1, seed=0, strategy="fedsvd", trains=("B",), model=made.model, fingerprint="f",
        labels=("a", "b"), adapter=made.adapter, train=made.train, privacy=made.privacy, wire=made.wire,
    )  # fmt: skip


def outcomes_of(recipe, out, faults, *, bad=BAD, keys=None):
    """(outcome, code) of the bad node in every round; all others must have trained."""
    simulation = prepare(recipe)
    sites = [site_of(simulation.data, name, out) for name in CLIENTS]
    if keys is not None:
        sites = [replace(site, sign=signer(keys[site.name])) for site in sites]
    registry = Registry({name: enrolled(keys[name], node) for name, node in NODES.items()} if keys else {})
    verify = lambda *signed: signed_by(registry, *signed)  # noqa: E731
    seen = []
    watch = lambda event: seen.append(event.record) if isinstance(event, RoundFinished) else None  # noqa: E731
    needs = Coordination(
        loaded_model=simulation.loaded_model,
        folder=out,
        labels=simulation.data.labels,
        watch=watch,
        site_of=REGISTERED.get,
        verify=verify if keys else None,
    )
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        coordinate(grid, recipe, needs, resume=False)

    client = client_app(lambda context: sites[int(context.node_config["partition-id"])])
    run_apps(server, LocalGrid(client, nodes=len(sites), run_config={}, faults=faults), {})
    for record in seen:
        assert all(c.outcome == "trained" for c in record.clients if c.node != bad)
    return [(c.outcome, c.code) for record in seen for c in record.clients if c.node == bad]


def enrolled(key: bytes, node: int) -> SiteEntry:
    return SiteEntry(public_key=make_request("site", key).public_key, status="approved", node=node)


def signer(key: bytes):
    """As a deployed site makes it of its node.key."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "node.key").write_bytes(key)
        return deployed_signer(Path(folder) / "node.key")


def test_a_site_without_a_key_does_not_sign(tmp_path):
    assert deployed_signer(tmp_path / "node.key") is None


def changed_blob(change):
    def corrupt(reply: Message) -> None:
        blob = change(reply.content.array_records[BLOB_RECORD][BLOB_KEY].data)
        array = Array(dtype="uint8", shape=(len(blob),), stype=BLOB_STYPE, data=blob)
        reply.content[BLOB_RECORD] = ArrayRecord({BLOB_KEY: array})

    return lambda node, message: Fault("corrupt", corrupt=corrupt) if node == BAD else None


def with_signature(made):
    def change(blob: bytes) -> bytes:
        envelope = pb.Envelope.FromString(blob)
        envelope.signature = made(envelope)
        return envelope.SerializeToString()

    return change


def test_an_update_that_the_sites_enrolled_key_has_not_signed_is_refused_unread(recipe, tmp_path):
    keys = {name: new_node_key() for name in CLIENTS}
    one = recipe("rounds.count=1")
    assert outcomes_of(one, tmp_path / "own", None, keys=keys) == [("trained", None)]
    forged = {
        "nobody": lambda envelope: b"",
        "another site": lambda envelope: signer(keys["red"])(envelope.sha256),
        "another text": lambda envelope: signer(keys["green"])(b"another text"),
    }
    for name, made in forged.items():
        faults = changed_blob(with_signature(made))
        assert outcomes_of(one, tmp_path / name, faults, keys=keys) == [("failed", "bad-signature")]


def test_a_site_that_speaks_in_anothers_name_is_refused(recipe, tmp_path):
    def claim(reply: Message) -> None:
        record = reply.content.config_records[REPORT_RECORD]
        record[JSON_KEY] = json.dumps({**json.loads(str(record[JSON_KEY])), "client": "red"})

    faults = lambda node, message: Fault("corrupt", corrupt=claim) if node == BAD else None  # noqa: E731
    assert outcomes_of(recipe("rounds.count=2"), tmp_path, faults) == [("failed", "wrong-client")] * 2


def test_an_update_of_an_earlier_round_is_refused(recipe, tmp_path):
    earlier: list[bytes] = []

    def replay(reply: Message) -> None:
        array = reply.content.array_records[BLOB_RECORD][BLOB_KEY]
        earlier.append(array.data)
        old = Array(dtype="uint8", shape=(len(earlier[0]),), stype=BLOB_STYPE, data=earlier[0])
        reply.content[BLOB_RECORD] = ArrayRecord({BLOB_KEY: old})

    faults = lambda node, message: Fault("corrupt", corrupt=replay) if node == BAD else None  # noqa: E731
    first, second = outcomes_of(recipe("rounds.count=2"), tmp_path, faults)
    assert first == ("trained", None)  # its own update of this round
    assert second[0] == "failed"
    assert second[1] is not None


def test_an_update_that_another_site_made_is_refused(recipe, tmp_path):
    """Bytes that would be valid from red: same run, same round, same state. green sends them in its own name."""
    made_by_red: list[bytes] = []

    def steal(reply: Message) -> None:
        if NODES["red"] == reply.metadata.src_node_id:
            made_by_red.append(reply.content.array_records[BLOB_RECORD][BLOB_KEY].data)
            return
        stolen = Array(dtype="uint8", shape=(len(made_by_red[-1]),), stype=BLOB_STYPE, data=made_by_red[-1])
        reply.content[BLOB_RECORD] = ArrayRecord({BLOB_KEY: stolen})

    nodes = (NODES["red"], NODES["white"])  # white answers after red
    faults = lambda node, message: Fault("corrupt", corrupt=steal) if node in nodes else None  # noqa: E731
    found = outcomes_of(recipe("rounds.count=2"), tmp_path, faults, bad=NODES["white"])
    assert found == [("failed", "wrong-client")] * 2


def test_an_update_that_is_longer_than_any_valid_one_is_refused_unread(recipe, tmp_path):
    def inflate(reply: Message) -> None:
        huge = bytes(8 * 1024 * 1024)
        reply.content[BLOB_RECORD] = ArrayRecord(
            {BLOB_KEY: Array(dtype="uint8", shape=(len(huge),), stype=BLOB_STYPE, data=huge)}
        )

    faults = lambda node, message: Fault("corrupt", corrupt=inflate) if node == BAD else None  # noqa: E731
    assert outcomes_of(recipe("rounds.count=1"), tmp_path, faults) == [("failed", "too-large")]


@pytest.mark.parametrize("run", ["../../../root/.ssh/x", "/etc/x", "a/b", "..", "", "a\n", "a" * 65])
def test_a_task_whose_run_could_be_a_path_is_no_task(recipe, run):
    """A site names its error-feedback file after the run: a coordinator must not choose where that lies."""
    with pytest.raises(SettingsError, match="run"):
        parse(Task, task_of(recipe(), run="r").model_dump(mode="json") | {"run": run})


def test_a_message_above_the_sites_limit_is_refused_before_it_is_decoded(recipe, tmp_path, monkeypatch):
    policy = Policy(require_privacy=False, base_models="any")
    monkeypatch.setattr("client.deployed.policy_of", lambda settings: policy)
    settings = ClientSettings(
        site="a", coordinator="x:1", data=SiteData(train=tmp_path / "none.csv"), state=tmp_path, max_message_mib=1
    )
    task = task_of(recipe(), run="r")
    report, blob = respond(task, bytes(1024 * 1024 + 1), settings)
    assert (report.outcome, report.code, blob) == ("failed", "message-too-large", None)
    report, _ = respond(task, b"", settings)
    assert report.code == "wrong-base-model"  # it went on, to a fingerprint that is none
