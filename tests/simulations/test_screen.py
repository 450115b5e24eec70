"""What is said while a run goes on, and how long it still takes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from server.record.records import ClientAnswered, RoundFinished, RoundRecord, RoundStarted
from simulations.terminal.pace import Pace, rough
from simulations.terminal.screen import Screen


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_time_to_go_is_known_after_the_first_answer_and_goes_by_this_process_s_rounds():
    clock = Clock()
    pace = Pace(rounds=8, clock=clock)  # two of ten were done before
    assert pace.to_go == ""
    pace.started()
    clock.now += 10
    assert pace.to_go == ""
    pace.answered(1 / 4)
    assert pace.to_go == "about 5 min to go"  # 40 s a round: 310 s
    clock.now += 30
    pace.finished()
    assert pace.to_go == "about 5 min to go"  # 7 x 40 s
    for _ in range(7):
        pace.started()
        pace.finished()
    assert pace.to_go == ""


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "1 s"), (89, "89 s"), (91, "2 min"), (5300, "88 min"), (5400, "1.5 h")]
)
def test_a_time_is_said_roughly(seconds, said):
    assert rough(seconds) == said


def watched(answers: int, *, seconds_each: float, rounds: int = 3) -> None:
    """A screen that sees a round begin and so many answers come in, each after a time."""
    clock = Clock()
    with Screen(rounds=rounds, title="run", clock=clock) as screen:
        screen.watch(RoundStarted(1, asked=answers))
        for _ in range(answers):
            clock.now += seconds_each
            screen.watch(ClientAnswered(1, SimpleNamespace()))


@pytest.mark.parametrize("terminal", ["", "dumb"])
def test_where_no_bar_is_seen_the_first_round_is_told_by_its_answers(capsys, monkeypatch, terminal):
    if terminal:
        monkeypatch.setenv("TERM", terminal)
        monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    watched(4, seconds_each=10)
    assert capsys.readouterr().err.strip().split("\n") == [
        "round 1 started: 4 clients are asked",
        "1 of 4 clients answered, about 2 min to go",
        "2 of 4 clients answered, about 2 min to go",
        "3 of 4 clients answered, about 2 min to go",
        "4 of 4 clients answered, about 80 s to go",
    ]


def test_a_thousand_quick_answers_are_not_a_thousand_lines(capsys):
    watched(1000, seconds_each=0.0625)
    said = capsys.readouterr().err.strip().splitlines()
    assert [line.split()[0] for line in said] == ["round", "1", "161", "321", "481", "641", "801", "961", "1000"]


def test_after_the_first_line_of_the_table_answers_are_not_told(capsys):
    record = RoundRecord(1, (), None, None, 0, 1.0)
    with Screen(rounds=3, title="run") as screen:
        screen.watch(RoundStarted(1, asked=1))
        screen.watch(RoundFinished(record))
        capsys.readouterr()
        screen.watch(RoundStarted(2, asked=1))
        screen.watch(ClientAnswered(2, SimpleNamespace()))
    assert not capsys.readouterr().err.strip()


def test_quiet_is_quiet(capsys):
    with Screen(rounds=3, title="run", quiet=True) as screen:
        screen.watch(RoundStarted(1, asked=1))
        screen.watch(ClientAnswered(1, SimpleNamespace()))
    assert capsys.readouterr().err == ""
