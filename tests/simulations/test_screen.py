"""What is said while a run goes on, and how long it still takes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fedlora.tasks.guessing import ACCURACY
from server.record.records import ClientAnswered, RoundStarted
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


def test_where_output_is_piped_the_first_answer_says_how_long_it_takes(capsys):
    answered = ClientAnswered(1, SimpleNamespace())
    with Screen(rounds=3, title="run", metric=ACCURACY) as screen:
        screen.watch(RoundStarted(1, asked=4))
        screen.watch(answered)
        screen.watch(answered)
    said = capsys.readouterr().err
    assert said.count("the first of 4 clients has answered: about ") == 1
