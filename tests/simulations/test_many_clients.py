"""Many clients in one process: of those who are not asked there is nothing, and what all are sent is held once."""

from __future__ import annotations

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from client import round as client_round
from simulations.local_grid import FIRST_NODE, LocalGrid, run_apps
from tests.client.test_trainer import server  # noqa: F401  # a fixture
from tests.privacy.rounds import site

NODES = 10_000


def test_clients_that_are_not_asked_are_not_there_and_those_that_are_get_objects_of_their_own():
    client, asking = ClientApp(), ServerApp()
    seen, numbers = [], []

    @client.train()
    def train(message: Message, context: Context) -> Message:
        record = message.content.config_records["shared"]
        seen.append((context.node_config["partition-id"], record["x"]))
        record["x"] = -1  # nobody else's
        return Message(RecordDict({"said": ConfigRecord({"x": 2})}), reply_to=message)

    @asking.main()
    def main(grid: Grid, context: Context) -> None:
        assert len(list(grid.get_node_ids())) == NODES
        content = RecordDict({"shared": ConfigRecord({"x": 1})})
        sent = grid.push_messages([Message(content, FIRST_NODE + n, "train") for n in (3, 9_999)])
        waiting = list(sent)
        while waiting:
            for reply in grid.pull_messages(waiting):
                waiting.remove(reply.metadata.reply_to_message_id)
                numbers.append(reply.content.config_records["said"]["x"])

    grid = LocalGrid(client, nodes=NODES, run_config={})
    assert not grid._contexts
    run_apps(asking, grid, {})
    assert seen == [(3, 1), (9_999, 1)]
    assert numbers == [2, 2]
    assert len(grid._contexts) == 2


def test_a_rehearsal_holds_for_the_same_state_and_task_and_for_no_other(server, tmp_path, monkeypatch):  # noqa: F811
    tried = []
    real = client_round.rehearse_task
    monkeypatch.setattr(client_round, "rehearse_task", lambda *a, **k: (tried.append(1), real(*a, **k)))
    privacy = {"epsilon": 3.0, "insecure_seed": 5}
    for number, name, expected in ((1, "a", 1), (1, "b", 1), (2, "a", 2), (1, "c", 3)):
        task, blob = server.ask(number, privacy=privacy)
        report, _ = client_round.answer(task, blob, site(tmp_path / name, count=40))
        assert report.outcome == "trained", report.code
        assert len(tried) == expected, name
    task, blob = server.ask(1, privacy={**privacy, "clip": 0.5})
    assert client_round.answer(task, blob, site(tmp_path / "d", count=40))[0].outcome == "trained"
    assert len(tried) == 4
