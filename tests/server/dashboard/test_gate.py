"""What the gate lets pass, over HTTP and websockets, on a small application with a route for each role."""

from __future__ import annotations

import pytest
from fastapi import Depends, Request
from fastapi.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from server.dashboard.app import create_app
from server.dashboard.doors.access import Access, Role, require
from server.dashboard.doors.gate import Auth
from server.dashboard.doors.headers import FIXED
from server.dashboard.doors.sessions import IDLE_S, TRIES, LoginLimit, Sessions

PASSWORD = "correct horse battery"
HERE = "http://localhost"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def audited():
    return []


@pytest.fixture
def doors(tmp_path, clock, audited, monkeypatch):
    monkeypatch.setattr("server.dashboard.doors.passwords.N", 2)  # the hash is tested in test_access.py
    access = Access(tmp_path / "store.access.json")
    for role in Role:
        access.add_user(role.value, role, PASSWORD)
    return Auth(
        access, Sessions(clock), LoginLimit(clock), audit=lambda actor, kind, particulars: audited.append((actor, kind))
    )


@pytest.fixture
def heard():
    """Messages that a websocket has received."""
    return []


@pytest.fixture
def client(doors, heard):
    app = create_app(doors)

    def name(request: Request) -> str:
        return request.state.principal.name

    for role in Role:
        app.add_api_route(f"/api/{role.value}", name, methods=["GET", "POST"], dependencies=[Depends(require(role))])
    app.add_api_route("/page", lambda: "a page")

    @app.websocket("/live")
    async def live(socket: WebSocket) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            heard.append(text)
            await socket.send_text(text)

    return TestClient(app, base_url=HERE, follow_redirects=False)


def form_token(client):
    text = client.get("/login").text
    return text.split('name="form_token" value="')[1].split('"')[0]


def log_in(client, user="viewer", password=PASSWORD, **fields):
    fields = {"form_token": form_token(client), **fields}
    return client.post("/login", data={"user": user, "password": password, **fields})


def test_without_a_login_pages_lead_to_it_and_machines_are_told_how(client):
    answer = client.get("/page?run=3")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/login?next=/page%3Frun%3D3"
    for path in ("/api/viewer", "/api/no-such-route", "/metrics", "/api/openapi.json"):
        answer = client.get(path)
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"] == "Bearer"
    assert client.post("/page").status_code == 401
    assert client.get("/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize("have", Role)
@pytest.mark.parametrize("need", Role)
def test_a_role_opens_what_it_covers_by_session_and_by_token(client, doors, have, need):
    secret = doors.access.add_token("ci", have, days=None)
    answers = [client.get(f"/api/{need.value}", headers={"Authorization": f"Bearer {secret}"})]
    log_in(client, have.value)
    answers.append(client.get(f"/api/{need.value}"))
    for answer, name in zip(answers, ["token:ci", have.value], strict=True):
        if have.covers(need):
            assert (answer.status_code, answer.json()) == (200, name)
        else:
            assert answer.status_code == 403
            assert answer.json()["detail"] == f"{name} has the role {have.value}; this needs {need.value}."


def test_a_wrong_token_is_refused_even_beside_a_good_session(client):
    log_in(client)
    for header in ("Bearer nonsense", "Bearer ", "Basic dmlld2VyOng="):
        assert client.get("/api/viewer", headers={"Authorization": header}).status_code == 401


def test_a_session_ends_with_time_with_its_user_and_with_logout(client, doors, clock):
    log_in(client)
    assert client.get("/page").status_code == 200
    clock.now += IDLE_S
    assert client.get("/page").status_code == 303
    log_in(client)
    doors.access.add_user("viewer", Role.VIEWER, PASSWORD + "!")
    assert client.get("/page").status_code == 303
    log_in(client, password=PASSWORD + "!")
    doors.access.remove_user("viewer")
    assert client.get("/page").status_code == 303


def test_logout_needs_the_sessions_token(client, doors):
    log_in(client)
    assert client.post("/logout", data={"csrf": "guess"}).status_code == 403
    session = doors.sessions.find(client.cookies[doors.cookie])
    kept = client.cookies[doors.cookie]
    assert client.post("/logout", data={"csrf": session.csrf}).headers["location"] == "/login"
    client.cookies.set(doors.cookie, kept)
    assert client.get("/page").status_code == 303


def test_a_change_by_cookie_needs_the_csrf_token(client, doors):
    log_in(client, "operator")
    assert client.post("/api/operator").status_code == 403
    assert client.post("/api/operator", headers={"X-CSRF-Token": "guess"}).status_code == 403
    session = doors.sessions.find(client.cookies[doors.cookie])
    assert client.post("/api/operator", headers={"X-CSRF-Token": session.csrf}).json() == "operator"
    token = doors.access.add_token("ci", Role.OPERATOR, days=1)
    assert client.post("/api/operator", headers={"Authorization": f"Bearer {token}"}).json() == "token:ci"


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}]
)
def test_another_site_can_neither_log_in_nor_change_anything(client, doors, headers):
    log_in(client, "operator")
    session = doors.sessions.find(client.cookies[doors.cookie])
    answer = client.post("/api/operator", headers={**headers, "X-CSRF-Token": session.csrf})
    assert answer.status_code == 403
    assert "another site" in answer.json()["detail"]
    assert client.post("/login", data={"user": "viewer", "password": PASSWORD}, headers=headers).status_code == 403


def test_the_login_form_needs_its_own_token(client):
    answer = client.post("/login", data={"user": "viewer", "password": PASSWORD})
    assert answer.status_code == 403
    assert "has expired" in answer.text
    assert log_in(client, form_token="guess").status_code == 403


def test_a_wrong_password_and_an_unknown_user_look_the_same(client, audited):
    answers = [log_in(client, password="wrong"), log_in(client, "nobody")]
    assert [answer.status_code for answer in answers] == [401, 401]
    assert all("Wrong user name or password." in answer.text for answer in answers)
    log_in(client)
    assert audited == [("unknown", "login-refused")] * 2 + [("viewer", "login")]


def test_attempts_are_limited_and_the_right_password_waits_too(client, clock):
    for _ in range(TRIES):
        log_in(client, password="wrong")
    answer = log_in(client)
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "900"
    assert "Try again in 15 minutes." in answer.text
    clock.now += 900
    assert log_in(client).status_code == 303


@pytest.mark.parametrize(
    "target", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/a\r\nb"]
)
def test_a_login_leads_to_a_page_of_this_dashboard_only(client, target):
    assert log_in(client, next=target).headers["location"] == "/"
    client.cookies.clear()
    assert log_in(client, next="/privacy?site=a").headers["location"] == "/privacy?site=a"


def test_what_is_shown_of_a_login_is_escaped(client):
    answer = log_in(client, '"><script>alert(1)</script>', "wrong")
    assert "<script>" not in answer.text


def test_the_link_lets_in_once_as_admin(client, doors):
    link = doors.sessions.new_link()
    assert client.get(f"/enter?link={link}").headers["location"] == "/"
    assert client.get("/api/admin").json() == "terminal"
    client.cookies.clear()
    answer = client.get(f"/enter?link={link}")
    assert "already used" in answer.text
    assert client.get("/page").status_code == 303


def test_a_websocket_needs_a_session_and_our_origin(client):
    origin = {"Origin": HERE}

    def opens(headers):
        try:
            with client.websocket_connect("ws://localhost/live", headers=headers) as socket:
                socket.send_text("hello")
                return socket.receive_text() == "hello"
        except WebSocketDisconnect:
            return False

    assert not opens(origin)
    log_in(client)
    assert opens(origin)
    assert not opens({})
    assert not opens({"Origin": "https://evil.example"})


def test_a_websocket_ends_with_its_session(client, doors, heard):
    log_in(client)
    with client.websocket_connect("ws://localhost/live", headers={"Origin": HERE}) as socket:
        socket.send_text("one")
        assert socket.receive_text() == "one"
        doors.access.remove_user("viewer")
        socket.send_text("two")
    assert heard == ["one"]


def test_only_names_of_this_machine_are_answered(client):
    log_in(client)
    assert client.get("/page", headers={"Host": "rebound.example"}).status_code == 421
    assert client.get("/page", headers={"Host": "[::1]:8470"}).status_code == 200


@pytest.mark.parametrize("path", ["/login", "/page", "/api/viewer", "/no-such-page", "/assets/login.css"])
def test_every_answer_carries_the_headers(client, path):
    headers = client.get(path).headers
    assert FIXED.items() <= {name.title(): value for name, value in headers.items()}.items()
    policy = headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "default-src 'none'" in policy
    scripts = next(part for part in policy.split("; ") if part.startswith("script-src"))
    assert "unsafe-inline" not in scripts
    assert "http" not in policy


def test_cookies_are_out_of_reach_of_scripts_and_of_plain_http_under_tls(client, doors):
    cookie = log_in(client).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    secure = TestClient(
        create_app(Auth(doors.access, doors.sessions, doors.limit, tls=True)),
        base_url="https://localhost",
        follow_redirects=False,
    )
    answer = log_in(secure)
    assert "__Host-fedlora=" in answer.headers["set-cookie"]
    assert "Secure" in answer.headers["set-cookie"]
    assert "max-age=31536000" in answer.headers["strict-transport-security"]
