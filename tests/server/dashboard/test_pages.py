"""Every page and route of the whole dashboard, without a browser: who is let in, and what the store's rows become."""

from __future__ import annotations

import html
import json
import re
import time
from pathlib import Path

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from nicegui import core
from starlette.routing import Mount, Route, WebSocketRoute

from client.deployment.enroll import ask
from fedlora import __version__
from fedlora.tasks.metric import LOSS
from server.dashboard.doors.access import Access, Role
from server.dashboard.doors.gate import PUBLIC, Auth
from server.dashboard.pages import shell
from server.dashboard.pages.events import EXPORT
from server.dashboard.pages.sites import coordinator_in, who_may
from server.dashboard.serve import build
from server.dashboard.state import AppState
from server.flower.admitted import Seen
from server.store.audit import append_event
from server.store.opening import open_store
from server.store.writing import begin_run, set_run, write_round
from server.trust.certificates import CA_DAYS, SERVER_DAYS
from server.trust.provision import approve, initialise
from tests.store.examples import MACHINE, facts, private, record
from tests.store.examples import client as client_record

PASSWORD = "correct horse battery"
RUN = "r" * 32
EVIL = "<img src=x onerror=alert(1)>"
PAGES = ("/", "/start", "/run/{name}", "/privacy", "/sites", "/events")
"""Written out: a page that is not listed is not looked at here."""


@pytest.fixture(scope="module")
def doors(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.dashboard.doors.passwords.N", 2)  # the hash is tested in test_access.py
        access = Access(tmp_path_factory.mktemp("access") / "store.access.json")
        for role in Role:
            access.add_user(role.value, role, PASSWORD)
        yield Auth(access)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    opened = open_store(tmp_path_factory.mktemp("store") / "store.db")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def app(doors, store):
    with store.writing() as connection:
        key = begin_run(connection, facts(name=EVIL), at=1000.0)
        for number in (1, 2):
            write_round(connection, key, private(number), at=1000.0 + 60 * number)
        append_event(connection, EVIL, who=EVIL, at=1000.0, run=RUN, why=EVIL)
    return build(AppState(store, doors))


@pytest.fixture
def client(app, doors):
    with TestClient(app, base_url="http://localhost", follow_redirects=False) as client:
        yield client


@pytest.fixture
def inside(client, doors):
    """Logged in as a viewer."""
    client.cookies.set(doors.cookie, doors.sessions.open("viewer", doors.access.stamp("viewer")))
    return client


def addresses(routes, prefix=""):
    """Every address that something answers at, parameters filled in."""
    for route in routes:
        if isinstance(route, Mount):
            yield from addresses(route.routes or [], prefix + route.path)
            yield prefix + route.path + "/x"
        elif isinstance(route, Route | WebSocketRoute):
            yield prefix + re.sub(r"\{[^}]*\}", "x", route.path)


def test_nothing_answers_without_a_login(app, client):
    found = sorted(set(addresses([*app.routes, *core.app.routes])))
    assert {path.format(name="x") for path in PAGES} <= set(found)
    for path in found:
        if not path.startswith(PUBLIC):
            answer = client.get(path)
            assert (answer.status_code, answer.text) == (303, "") or answer.status_code == 401, path
            assert client.post(path).status_code in (401, 403), path


def test_every_page_is_looked_at_here_and_in_the_document(app):
    served = {route.path for route in core.app.routes if isinstance(route, APIRoute) and "nicegui" not in route.path}
    assert served == set(PAGES), "an address of pages/addresses.py belongs in PAGES, and the other way round"
    document = (Path(__file__).resolve().parents[3] / "docs/dashboard.md").read_text(encoding="utf-8")
    missing = [title for _, title in shell.PAGES if f"| {title} |" not in document]
    assert missing == [], "each page of the navigation has a row in docs/dashboard.md"


@pytest.mark.parametrize("path", [path.format(name=RUN) for path in PAGES])
def test_a_page_is_whole_escaped_and_its_inline_scripts_have_the_nonce(inside, path):
    answer = inside.get(path)
    assert answer.status_code == 200
    assert "<img src=x" not in answer.text
    nonce = re.search(r"'nonce-([^']+)'", answer.headers["content-security-policy"]).group(1)
    inline = [tag for tag in re.findall(r"<script[^>]*>", answer.text) if "src=" not in tag]
    assert len(inline) >= 4
    assert all(f'nonce="{nonce}"' in tag for tag in inline)
    assert '<script src="/assets/fedlora.js">' in answer.text, "what is put into the page gets no nonce"
    assert nonce not in inside.get(path).text


def test_sites_say_what_they_run_on_and_another_version_is_marked(inside, store):
    with store.writing() as connection:
        key = begin_run(connection, facts("d" * 32, name="deployed", kind="deployment"), at=5000.0)
        clients = [client_record("a", 1, machine=MACHINE), client_record("b", 1)]
        write_round(connection, key, record(1, clients), at=5010.0)
    page = inside.get("/sites").text
    assert f"0.0.9, not {__version__}" in page
    assert "cuda:0, H100" in page
    assert "Python 3.12.1, torch 2.9.0, flwr 1.39.0" in page
    assert "not reported" in page
    assert "simulated here" in page


def test_a_coordinators_page_says_how_long_its_authority_lasts_and_who_never_came(tmp_path):
    settings = initialise(tmp_path, name="net", address="x:1")
    approve(settings, ask(tmp_path / "a", site="hospital-a"))
    shown = html.unescape(str(who_may(coordinator_in(settings))))
    assert f"{CA_DAYS - 1:,} days left" in shown
    assert "never connected: hospital-a" in shown
    Seen(settings.folder)("hospital-a")
    assert "never connected" not in str(who_may(coordinator_in(settings)))
    assert f"{SERVER_DAYS - 1} days left" in shown
    assert "hospital-a" in shown


def test_what_a_finished_runs_figures_mean_is_on_its_page(inside, store, tmp_path):
    said = {"standing": "no better than guessing", "verdict": ["Accuracy 0.664 is no better.", "Was rising."]}
    with store.writing() as connection:
        key = begin_run(connection, facts("v" * 32, name="majority", folder=str(tmp_path)), at=time.time())
    (tmp_path / "summary.json").write_text(json.dumps(said))
    assert said["verdict"][0] not in inside.get("/run/majority").text  # it goes on: that is of an earlier turn
    with store.writing() as connection:
        set_run(connection, key, state="finished")
    shown = inside.get("/run/majority").text
    assert re.search("note warn[^>]*>Accuracy 0.664 is no better", html.unescape(shown))
    assert "Was rising." in shown
    (tmp_path / "summary.json").write_text("[]")
    assert inside.get("/run/majority").status_code == 200


def test_a_run_that_is_compared_by_its_loss_has_one_chart_of_it_and_a_list_of_several_tasks_says_which(inside, store):
    with store.writing() as connection:
        key = begin_run(connection, facts("w" * 32, name="speaker", metric=LOSS), at=time.time())
        write_round(connection, key, record(1), at=time.time())
    shown = html.unescape(inside.get("/run/speaker").text)
    assert shown.count("Loss by round") == 1
    assert "Accuracy" not in shown
    listed = html.unescape(inside.get("/").text)
    assert 'data-label="Score" class="number">1 nats<small>loss</small>' in listed.replace("\\", "")
    assert "70.0 %<small>accuracy</small>" in listed


def test_a_run_that_is_not_there_is_said(inside):
    answer = inside.get("/run/nothing")
    assert answer.status_code == 404
    assert "there is no run" in answer.text


def test_what_a_page_hands_out_is_the_apis(inside, doors):
    lines = inside.get(EXPORT).text.splitlines()
    assert [line.count('"digest"') for line in lines] == [1]
    assert inside.get(f"/api/v1/runs/{RUN}/adapter").status_code == 403
    inside.cookies.set(doors.cookie, doors.sessions.open("operator", doors.access.stamp("operator")))
    answer = inside.get(f"/api/v1/runs/{RUN}/adapter")
    assert answer.status_code == 404
    assert "has no adapter on this machine; order an export, or look in /nowhere" in answer.json()["detail"]
