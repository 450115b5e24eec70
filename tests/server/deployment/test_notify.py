"""Webhooks against a real HTTP server: signed, in order, tried a bounded number of times, never twice."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from fedlora.deployment.private_files import write_private
from fedlora.settings import SettingsError, parse
from server.deployment.notify import FIRST_PAUSE_S, MOST_ATTEMPTS, Notifier
from server.settings import load_server
from server.store.audit import append_event
from server.store.opening import open_store
from server.webhooks import Webhook, hooks_beside

SECRET = b"a secret of sixteen bytes or more"


class Receiver(ThreadingHTTPServer):
    """Keeps what it is sent, and answers what it is told to."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.status = 204
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((dict(self.headers), body))
                self.send_response(receiver.status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def told(self) -> list[int]:
        return [json.loads(body)["sequence"] for _, body in self.got]


@pytest.fixture
def receiver():
    server = Receiver()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def hook(receiver, tmp_path):
    write_private(tmp_path / "secret", SECRET)
    return Webhook(url=f"http://127.0.0.1:{receiver.server_port}/x", secret=tmp_path / "secret")


@pytest.fixture
def store(tmp_path):
    opened = open_store(tmp_path / "fedlora.db")
    yield opened
    opened.close()


class Clock:
    now = 1e6

    def __call__(self) -> float:
        return self.now


def tell(store, *kinds: str, at: float = 1e6) -> None:
    with store.writing() as connection:
        for kind in kinds:
            append_event(connection, kind, who="coordinator", at=at, run="r" * 32, site="a", epsilon=2.5)


def test_events_are_sent_in_order_once_and_signed(store, hook, receiver):
    tell(store, "run-started", "budget-nearly-spent", "site-missing", "order", "run-finished")
    assert Notifier(store, [hook], clock=Clock()).step() == 3
    assert receiver.told == [2, 3, 5]
    headers, body = receiver.got[0]
    signed = headers["X-Fedlora-Timestamp"].encode() + b"." + body
    assert headers["X-Fedlora-Signature"] == "sha256=" + hmac.new(SECRET, signed, hashlib.sha256).hexdigest()
    assert json.loads(body) == {
        "event": "budget-nearly-spent", "at": 1e6, "run": "r" * 32, "sequence": 2,
        "fields": {"site": "a", "epsilon": 2.5},
    }  # fmt: skip
    assert Notifier(store, [hook], clock=Clock()).step() == 0, "a restart repeats nothing"
    tell(store, "run-failed")
    assert Notifier(store, [hook], clock=Clock()).step() == 1


def test_a_receiver_that_is_away_is_tried_again_with_pauses_and_then_given_up(store, hook, receiver):
    clock = Clock()
    notifier = Notifier(store, [hook], clock=clock)
    receiver.status = 503
    tell(store, "site-missing", "run-finished")
    notifier.step()
    notifier.step()
    assert receiver.told == [1], "not before its pause"
    for attempt in range(MOST_ATTEMPTS - 1):
        clock.now += FIRST_PAUSE_S * 2**attempt
        notifier.step()
    assert receiver.told == [1] * MOST_ATTEMPTS + [2], "given up, and the next one has its turn"
    receiver.status = 204
    clock.now += FIRST_PAUSE_S
    assert notifier.step() == 1


def test_what_happened_long_before_a_webhook_is_no_news(store, hook, receiver):
    tell(store, "run-finished", at=5.0)
    assert Notifier(store, [hook], clock=Clock()).step() == 0
    tell(store, "run-finished")
    assert Notifier(store, [hook], clock=Clock()).step() == 1
    assert receiver.told == [2]


def test_a_redirect_is_not_followed_and_one_receiver_does_not_hold_up_another(store, hook, receiver, tmp_path):
    receiver.status = 302
    dead = hook.model_copy(update={"url": "http://127.0.0.1:1/nobody"})
    tell(store, "run-finished")
    notifier = Notifier(store, [dead, hook], clock=Clock())
    assert notifier.step() == 0
    assert len(receiver.got) == 1
    receiver.status = 200
    other = hook.model_copy(update={"url": hook.url + "/other"})
    assert Notifier(store, [dead, other], clock=Clock()).step() == 1


def test_settings_of_a_webhook_that_would_not_be_safe_are_refused(tmp_path, hook):
    with pytest.raises(SettingsError, match="url: a webhook's url is https://, or http:// on this machine"):
        parse(Webhook, {"url": "http://elsewhere.example/x", "secret": tmp_path / "secret"})
    with pytest.raises(SettingsError, match="url: a webhook's url is https://"):
        parse(Webhook, {"url": "file:///etc/passwd", "secret": tmp_path / "secret"})
    with pytest.raises(SettingsError, match="events"):
        parse(Webhook, {"url": "https://x.example", "secret": tmp_path / "secret", "events": ["everything"]})
    with pytest.raises(SettingsError, match=r"cannot read the key .*nothing"):
        Notifier(None, [hook.model_copy(update={"secret": tmp_path / "nothing"})])
    write_private(tmp_path / "short", b"short")
    with pytest.raises(SettingsError, match="shorter than 16 bytes"):
        Notifier(None, [hook.model_copy(update={"secret": tmp_path / "short"})])
    (tmp_path / "open").write_bytes(SECRET)
    (tmp_path / "open").chmod(0o644)
    with pytest.raises(SettingsError, match="open"):
        Notifier(None, [hook.model_copy(update={"secret": tmp_path / "open"})])


def test_server_yaml_says_where_webhooks_are(tmp_path):
    settings = {
        "name": "net", "address": "x:1", "webhooks": [{"url": "https://ops.example/fedlora", "secret": "hook.secret"}],
    }  # fmt: skip
    (tmp_path / "server.yaml").write_text(yaml.safe_dump(settings))
    (hook,) = load_server(tmp_path / "server.yaml").webhooks
    assert hook.secret == tmp_path / "hook.secret"
    assert "run-finished" in hook.events
    assert hooks_beside(str(tmp_path / "fedlora.db")) == ()
    (tmp_path / "fedlora.webhooks.yaml").write_text(yaml.safe_dump({"webhooks": settings["webhooks"]}))
    assert hooks_beside(f"sqlite:///{tmp_path / 'fedlora.db'}") == (hook,)
