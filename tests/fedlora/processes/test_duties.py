"""Whatever one duty raises, the others are done, and it is said until it succeeds."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request

import pytest

from fedlora.deployment.health import serve_health
from fedlora.processes.duties import RETRY_S, Background, Conditions, Routine
from fedlora.settings import SettingsError


def test_a_duty_that_fails_is_said_left_alone_for_a_while_and_done_again():
    now, done, broken = 0.0, [], True

    def fail() -> None:
        done.append("fail")
        if broken:
            raise SettingsError("it is\nbroken")

    routine = Routine({"a": fail, "b": lambda: done.append("b")}, clock=lambda: now)
    routine.turn()
    routine.turn()
    assert done == ["fail", "b", "b"]
    assert routine.conditions.all()["a"].why == "it is broken"
    assert routine.conditions.all()["b"].ok
    now, broken = RETRY_S, False
    routine.turn()
    assert routine.conditions.all()["a"].ok


@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyError("x"), RecursionError("deep"), MemoryError()])
def test_no_exception_leaves_a_routine(error):
    def fail() -> None:
        raise error

    routine = Routine({"a": fail})
    routine.turn()
    assert (routine.conditions.all()["a"].why or "").startswith(type(error).__name__)


def test_what_two_threads_say_at_the_same_moment_is_both_kept():
    def clock() -> float:
        if threading.current_thread() is not other and not other.ident:
            other.start()
            other.join(0.2)  # it comes in between, if it can
        return 0.0

    conditions = Conditions(clock=clock)
    other = threading.Thread(target=lambda: conditions.say("b", "broken"))
    conditions.say("a", "broken")
    other.join()
    assert set(conditions.all()) == {"a", "b"}


def test_a_change_is_logged_once(caplog):
    now = 100.0
    conditions = Conditions(clock=lambda: now)
    for _ in range(3):
        conditions.say("a", "broken")
        now += 1
    assert caplog.text.count("a maintenance task reports a problem") == 1
    assert conditions.all()["a"].since == 100.0
    conditions.say_if_any("a", None)
    conditions.say_if_any("b", None)
    assert conditions.all() == {}


def test_who_wakes_the_background_does_not_wait_and_wakes_are_not_lost():
    going, free, turns = threading.Event(), threading.Event(), []

    def turn() -> None:
        turns.append(threading.current_thread().name)
        going.set()
        assert free.wait(60)

    background = Background(turn, name="flower")
    background.wake()
    assert going.wait(60)
    going.clear()
    background.wake()  # comes while the first is under way
    background.wake()
    free.set()
    assert going.wait(60)
    assert turns == ["flower", "flower"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_turn_that_ends_its_thread_does_not_end_the_background():
    done = threading.Semaphore(0)

    def turn() -> None:
        done.release()
        raise SystemExit

    background = Background(turn, name="x")
    for _ in range(3):
        background.wake()
        assert done.acquire(timeout=60)
        assert background._thread is not None
        background._thread.join(60)


def answer(port: int) -> tuple[int, dict]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=30) as got:
            return got.status, json.loads(got.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_healthz_is_not_ready_without_what_is_vital_and_says_the_rest():
    conditions = Conditions(clock=lambda: 5.0)
    server = serve_health(lambda: {"a": {"ready": True}}, port=0, conditions=conditions.all, vital=("superlink",))
    try:
        assert answer(server.server_port)[0] == 503  # nobody knows yet
        conditions.say("superlink", None)
        conditions.say("run old", "damaged")
        status, said = answer(server.server_port)
        assert (status, said["ready"]) == (200, True)
        assert said["duties"]["run old"] == {"ok": False, "why": "damaged", "since": 5.0}
        conditions.say("superlink", "no answer")
        status, said = answer(server.server_port)
        assert (status, said["ready"], said["duties"]["superlink"]["why"]) == (503, False, "no answer")
    finally:
        server.shutdown()
        server.server_close()
