"""The JSON API: what the store says, to whom it may be said, and no error of the server's own whatever is sent."""

from __future__ import annotations

import json

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError

from server.dashboard.app import create_app
from server.dashboard.doors.access import Access, Role
from server.dashboard.doors.gate import Auth
from server.dashboard.machine.api import add_api
from server.runs.launch import RunLauncher
from server.store.former import RENAMED
from server.store.opening import open_store
from server.store.reading import read_runs
from server.store.writing import begin_run, set_run, write_round
from tests.bombs import BOMB, ECHO
from tests.store.examples import BUDGET, MACHINE, client, facts, private, receipt, record

FAR = 4e9
"""A moment that is always recent: a run on another machine is heard then."""


@pytest.fixture
def store(tmp_path):
    opened = open_store(tmp_path / "fedlora.db")
    with opened.writing() as connection:
        key = begin_run(connection, facts("1" * 32, kind="deployment", recipe={"huge": float("inf")}), at=1000.0)
        write_round(connection, key, private(1, run="1" * 32), at=1010.0)
        second = [client("a", 2, machine=MACHINE), client("b", 2, outcome="late")]
        write_round(connection, key, record(2, second), at=FAR)
        set_run(connection, key, state="finished", ended_at=1020.0)
        busy = begin_run(connection, facts("2" * 32, name="busy"), at=2000.0, host="elsewhere")
        set_run(connection, busy, heard_at=FAR)
    yield opened
    opened.close()


@pytest.fixture
def app(store, tmp_path):
    app = create_app(Auth(Access(tmp_path / "access.json"), hosts=None))
    app.state.api = add_api(app, store)
    return app


@pytest.fixture
def token(tmp_path):
    return lambda role: Access(tmp_path / "access.json").add_token(role.value, role, days=1)


@pytest.fixture
def browse(app, token):
    """A client of each role."""
    return {role: TestClient(app, headers={"Authorization": f"Bearer {token(role)}"}) for role in Role}


def test_what_the_store_says_is_what_is_answered(browse):
    viewer = browse[Role.VIEWER]
    assert [run["name"] for run in viewer.get("/api/v1/runs").json()] == ["busy", "first"]
    assert [run["name"] for run in viewer.get("/api/v1/runs", params={"active": True}).json()] == ["busy"]
    whole = viewer.get("/api/v1/runs/first").json()
    assert (whole["run"]["rounds"], whole["detail"]["versions"]) == (2, {"fedlora": "0.1.0"})
    assert [row["round"] for row in viewer.get("/api/v1/runs/1111/rounds", params={"after": 1}).json()] == [2]
    cells = viewer.get("/api/v1/runs/first/clients", params={"site": "b"}).json()
    assert [(cell["round"], cell["outcome"]) for cell in cells] == [(1, "trained"), (2, "late")]
    assert viewer.get("/api/v1/runs/first/failures").json()[0]["code"] == "no-answer"
    assert {site["site"] for site in viewer.get("/api/v1/runs/first/sites").json()} == {"a", "b"}
    told = {site["site"]: site["machine"] for site in viewer.get("/api/v1/sites").json()}
    assert told == {"a": MACHINE.model_dump(), "b": None}
    assert viewer.get("/api/v1/runs/first/log").json() == []
    (ledger, _) = sorted(viewer.get("/api/v1/privacy").json(), key=lambda row: row["site"])
    assert (ledger["epsilon"], ledger["budget"]) == (receipt("a", 1).epsilon_lifetime, BUDGET)
    assert [row["round"] for row in viewer.get("/api/v1/privacy/a/default/receipts").json()] == [1]
    verdict = viewer.get(f"/api/v1/privacy/accounts/{ledger['account']}/verify").json()
    assert verdict == {"sound": True, "problems": []}
    assert viewer.get("/api/v1/me").json() == {"name": "token:viewer", "role": "viewer"}


def test_an_order_is_placed_in_the_name_of_its_giver_and_written_down(browse):
    operator = browse[Role.OPERATOR]
    placed = operator.post("/api/v1/runs/busy/orders", json={"action": "exclude", "site": "a"})
    assert (placed.status_code, placed.json()["who"]) == (201, "token:operator")
    assert operator.get("/api/v1/runs/busy/orders").json() == [placed.json()]
    (event,) = operator.get("/api/v1/events", params={"kind": "order", "actor": "token:operator"}).json()
    assert (event["run"], event["fields"]) == ("2" * 32, {"verb": "exclude", "site": "a"})
    assert operator.get("/api/v1/events/verify").json() == {"sound": True, "problems": []}
    assert json.loads(operator.get("/api/v1/events/export").text)["digest"] == event["digest"]


def test_for_one_version_more_an_order_may_name_its_action_verb(browse):
    operator = browse[Role.OPERATOR]
    placed = operator.post("/api/v1/runs/busy/orders", json={"verb": "pause"})
    assert (placed.status_code, placed.json()["action"], placed.json()["verb"]) == (201, "pause", "pause")
    both = operator.post("/api/v1/runs/busy/orders", json={"verb": "pause", "action": "stop"})
    assert both.status_code == 422


def test_orders_that_cannot_be_obeyed_are_refused_with_the_reason(browse):
    operator = browse[Role.OPERATOR]
    refused = operator.post("/api/v1/runs/first/orders", json={"action": "pause"})
    assert (refused.status_code, refused.json()["detail"]) == (
        409, "first is finished and would not react. Resume it first.",
    )  # fmt: skip
    for body, reason in (
        ({"action": "exclude"}, "exclude needs the name of a site."),
        ({"action": "pause", "site": "a"}, "pause does not take a site."),
    ):
        refused = operator.post("/api/v1/runs/busy/orders", json=body)
        assert (refused.status_code, refused.json()["detail"]) == (422, reason)
    for body in ({"action": "dance"}, {"action": "pause", "more": 1}, {"action": "exclude", "site": "\0"}, [], "x"):
        assert operator.post("/api/v1/runs/busy/orders", json=body).status_code == 422
    assert operator.post("/api/v1/runs/nothing/orders", json={"action": "pause"}).status_code == 404


def test_only_an_admin_removes_a_run_and_only_one_that_is_over(browse, store):
    admin = browse[Role.ADMIN]
    assert admin.delete("/api/v1/runs/busy").json()["detail"] == "busy is running; stop it before it is removed."
    assert admin.delete("/api/v1/runs/first").status_code == 204
    with store.reading() as connection:
        assert [run.name for run in read_runs(connection)] == ["busy"]


@pytest.fixture
def starter(store, tmp_path):
    """An operator at a dashboard that has a folder of runs."""
    (tmp_path / "runs").mkdir()
    app = create_app(Auth(Access(tmp_path / "access.json"), hosts=None))
    add_api(app, store, RunLauncher(tmp_path / "runs", str(tmp_path / "fedlora.db")))
    secret = Access(tmp_path / "access.json").add_token("starter", Role.OPERATOR, days=1)
    return TestClient(app, headers={"Authorization": f"Bearer {secret}"})


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ("train: {lrr: 1}", "unknown setting train.lrr; did you mean train.lr?"),
        ("[1, 2]", "the recipe must hold `key: value` settings, not a list."),
        ("a: [1", "the recipe is not valid YAML for settings: line 1, column 6"),
        ("seed: 2001-99-99", "seed must be a valid integer"),
        ("\0", "a character that is not allowed in text"),
        ("{1: 2}", "unknown setting 1"),
        ("[" * 5000, "more than 32 levels of nesting"),
        (BOMB, "line 1: anchors and aliases such as &a are not supported"),
        (ECHO, "line 1: anchors and aliases such as &a are not supported"),
    ],
)
def test_a_bad_recipe_is_refused_and_nothing_is_started(starter, tmp_path, recipe, reason):
    for path, body in (("plan", {"recipe": recipe}), ("runs", {"recipe": recipe, "name": "new"})):
        answer = starter.post(f"/api/v1/{path}", json=body)
        assert answer.status_code == 422, answer.text
        assert reason in answer.json()["detail"]
        assert len(answer.content) < 1000
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_complaint_about_what_was_sent_is_no_echo_of_it(starter):
    for body in (
        {"recipe": "", **{f"{'k' * 300}{n}": n for n in range(2000)}},
        {"recipe": "x" * 200_000},
        ["x"] * 1000,
    ):
        answer = starter.post("/api/v1/plan", json=body)
        assert answer.status_code == 422
        assert len(answer.content) < 20_000


def test_a_run_is_started_once_under_a_name_that_is_a_name(starter, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(
        "server.runs.launch.subprocess.Popen", lambda command, **options: started.append((command, options))
    )
    recipe = "name: mine\nrounds: {count: 2}\n"
    for name in ("../up", "", "A b"):
        assert starter.post("/api/v1/runs", json={"recipe": recipe, "name": name}).status_code == 422
    answer = starter.post("/api/v1/runs", json={"recipe": recipe, "name": "mine"})
    assert (answer.status_code, answer.json()) == (201, {"name": "mine", "folder": str(tmp_path / "runs/mine")})
    ((command, options),) = started
    assert command[3:] == ["simulate", str(tmp_path / "runs/mine/recipe.yaml"), "--out", str(tmp_path / "runs/mine")]
    assert options["env"]["FEDLORA_STORE"] == str(tmp_path / "fedlora.db")
    again = starter.post("/api/v1/runs", json={"recipe": recipe, "name": "mine"})
    assert (again.status_code, len(started)) == (422, 1)
    assert "there is already a run 'mine'" in again.json()["detail"]
    (event,) = starter.get("/api/v1/events", params={"kind": "run-submitted"}).json()
    assert (event["who"], event["fields"]["name"]) == ("token:starter", "mine")
    assert "six-airlines" in starter.get("/api/v1/recipes").json()


def test_where_no_run_can_be_started_or_resumed_it_is_said(browse, starter):
    answer = browse[Role.OPERATOR].post("/api/v1/runs", json={"recipe": "{}", "name": "x"})
    assert (answer.status_code, answer.json()["detail"][:39]) == (409, "this dashboard cannot start runs: its s")
    assert "without --allow-simulations" in answer.json()["detail"]
    assert "only a run that was stopped" in starter.post("/api/v1/runs/busy/resume").json()["detail"]
    assert starter.get("/api/v1/runs/first/adapter").status_code == 404


def routes(app) -> list[tuple[str, str, Role]]:
    """Every operation of the API, and the least role that it is for."""
    least = {"post": Role.OPERATOR, "delete": Role.ADMIN}
    for_operators = ("/runs/{name}/adapter",)
    return [
        (method, "/api/v1" + path, Role.OPERATOR if path in for_operators else least.get(method, Role.VIEWER))
        for path, operations in app.state.api.openapi()["paths"].items()
        for method in operations
    ]


def test_every_route_is_refused_without_a_login_and_with_a_lesser_role(app, browse):
    nobody = TestClient(app)
    listed = [*routes(app), ("get", "/metrics", Role.VIEWER)]
    assert len(listed) > 15
    for method, path, least in listed:
        url = path.format(name="busy", site="a", dataset="default", account=1)
        assert nobody.request(method, url, json={}).status_code == 401, path
        forged = nobody.request(method, url, json={}, headers={"Authorization": "Bearer fedlora_wrong"})
        assert forged.status_code == 401, path
        for role in Role:
            if not role.covers(least):
                assert browse[role].request(method, url, json={"action": "pause"}).status_code == 403, path


@pytest.fixture
def taken(store):
    """A line for every connection that was taken from the store."""
    found = []
    event.listen(store.engine, "checkout", lambda *_: found.append("taken"))
    return found


def test_an_answer_takes_one_connection_and_a_refusal_none(app, browse, taken):
    for method, path, least in [*routes(app), ("get", "/metrics", Role.VIEWER)]:
        url = path.format(name="busy", site="a", dataset="default", account=1)
        for role in Role:
            taken.clear()
            answer = browse[role].request(method, url, json={"verb": "pause"})
            assert len(taken) <= role.covers(least), (path, role)
            assert role.covers(least) or answer.status_code == 403, path


def test_what_is_done_and_written_down_is_one_connection_too(starter, store, taken, tmp_path, monkeypatch):
    monkeypatch.setattr("server.runs.launch.subprocess.Popen", lambda command, **options: None)
    folder = tmp_path / "ended"
    (folder / "exports" / "round-0001").mkdir(parents=True)
    (folder / "checkpoint.safetensors").touch()
    with store.writing() as connection:
        key = begin_run(connection, facts("3" * 32, name="ended", folder=str(folder)), at=3000.0)
        set_run(connection, key, state="stopped")
    taken.clear()
    admin = Access(tmp_path / "access.json").add_token("admin", Role.ADMIN, days=1)
    for status, method, path, body in (
        (201, "post", "runs", {"recipe": "{}", "name": "new"}),
        (201, "post", "runs/busy/orders", {"verb": "pause"}),
        (200, "get", "runs/ended/adapter", None),
        (202, "post", "runs/ended/resume", None),
        (204, "delete", "runs/ended", None),
    ):
        answer = starter.request(method, f"/api/v1/{path}", json=body, headers={"Authorization": f"Bearer {admin}"})
        assert (answer.status_code, taken) == (status, ["taken"]), (path, answer.text)
        taken.clear()
    kinds = [event["kind"] for event in starter.get("/api/v1/events", params={"actor": "token:admin"}).json()]
    assert kinds == ["run-removed", "run-resubmitted", "adapter-downloaded", "order", "run-submitted"]


def test_what_could_not_be_kept_is_not_answered_as_done(browse, store, monkeypatch):
    def full(connection):
        raise OperationalError("COMMIT", {}, Exception("disk full"))

    event.listen(store.engine, "commit", full)
    answer = browse[Role.OPERATOR].post("/api/v1/runs/busy/orders", json={"verb": "pause"})
    event.remove(store.engine, "commit", full)
    assert answer.status_code == 503
    assert browse[Role.OPERATOR].get("/api/v1/runs/busy/orders").json() == []


def test_a_database_that_breaks_is_503_and_says_nothing_of_itself(browse, store):
    with store.writing() as connection:
        connection.execute(text("ALTER TABLE runs RENAME TO elsewhere"))
    answer = browse[Role.VIEWER].get("/api/v1/runs")
    assert (answer.status_code, answer.json()) == (
        503, {"detail": "The store is not reachable (OperationalError); try again."},
    )  # fmt: skip


def test_what_was_called_accuracy_is_there_for_one_version_more_and_described_as_such(app, browse):
    client = browse[Role.VIEWER]
    run = client.get("/api/v1/runs/first").json()["run"]
    assert (run["metric"], run["larger_is_better"], run["unit"]) == ("accuracy", True, "%")
    assert run["accuracy"] == run["score"] == run["metrics"]["accuracy"] == 0.7
    assert run["best_accuracy"] == run["best_score"] == 0.7
    round_ = client.get("/api/v1/runs/first/rounds").json()[0]
    assert (round_["accuracy"], round_["client_accuracy"]) == (round_["score"], round_["client_score"])
    for path in ("clients", "sites"):
        row = client.get(f"/api/v1/runs/first/{path}").json()[0]
        assert row["accuracy"] == row["score"] == row["metrics"]["accuracy"]
    schemas = client.get("/api/v1/openapi.json").json()["components"]["schemas"]
    old = {f"{name}.{key}" for name, schema in schemas.items() for key, field in schema.get("properties", {}).items()
           if field.get("deprecated")}  # fmt: skip
    renamed = {name for name in old if name.partition(".")[2] in RENAMED}
    assert {name.partition(".")[2] for name in renamed} == set(RENAMED)
    assert old - renamed == {
        "RunRow.accuracy", "RunRow.best_accuracy", "RoundRow.accuracy", "RoundRow.client_accuracy",
        "ClientRoundRow.accuracy", "RunSiteRow.accuracy",
    }  # fmt: skip


def test_prometheus_reads_the_metrics(browse):
    answer = browse[Role.VIEWER].get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {
        (sample.name, *(value for key, value in sorted(sample.labels.items()) if key != "key")): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert found["fedlora_run_state", "busy", "running"] == 1
    assert found["fedlora_run_rounds", "first"] == 2
    assert found["fedlora_accuracy", "first"] == 0.7
    assert found["fedlora_evaluation", "accuracy", "first"] == 0.7
    assert found["fedlora_evaluation", "loss", "first"] == 0.5
    assert found["fedlora_round_clients", "late", "first"] == 1
    assert found["fedlora_round_seconds", "first"] == 10.0
    assert found["fedlora_run_bytes_total", "up", "first"] == 300
    assert found["fedlora_failures_total", "no-answer", "late", "first"] == 1
    assert found["fedlora_epsilon_spent", "default", "a"] == receipt("a", 1).epsilon_lifetime
    assert found["fedlora_epsilon_left", "default", "a"] == BUDGET - receipt("a", 1).epsilon_lifetime
    assert found["fedlora_site_missing", "b"] == 0
    assert found["fedlora_site_info", "cuda:0", "0.0.9", "1.39.0", "3.12.1", "a", "2.9.0"] == 1


def test_whatever_the_description_allows_and_what_it_does_not_is_no_error_of_the_server(app, browse, token):
    secret = browse[Role.ADMIN].headers["Authorization"]
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", app, headers={"Authorization": secret})
    quick = settings(
        max_examples=12, deadline=None, phases=[Phase.explicit, Phase.generate], database=None,
        suppress_health_check=list(HealthCheck), derandomize=True,
    )  # fmt: skip
    tried = 0
    for operation in schema.get_all_operations():
        strategy = operation.ok().as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE) | (
            operation.ok().as_strategy()
        )

        @quick
        @given(case=strategy)
        def send(case):
            nonlocal tried
            tried += 1
            answer = case.call(headers={"Authorization": secret})
            assert answer.status_code < 500, (case.method, case.path, answer.content)

        send()
    assert tried > 100
