"""A round's three steps: what is admitted together is trained and answered as if each had come alone."""

from __future__ import annotations

import pytest

from client.round import admit, answer, finish
from client.trainer import OneByOne
from tests.privacy.rounds import coordinator, site


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    return coordinator(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("privacy", [{}, {"epsilon": 3.0, "insecure_seed": 5}], ids=["plain", "private"])
def test_two_that_are_admitted_before_either_is_trained_answer_as_if_each_were_alone(server, tmp_path, privacy):
    tasks = [server.ask(number, privacy=privacy) for number in (1, 1)]
    together = [site(tmp_path / f"together-{n}", count=count) for n, count in enumerate((40, 60))]
    alone = [site(tmp_path / f"alone-{n}", count=count) for n, count in enumerate((40, 60))]
    works = [admit(task, blob, here) for (task, blob), here in zip(tasks, together, strict=True)]
    found = [finish(work, trained) for work, trained in zip(works, OneByOne().train(works), strict=True)]
    expected = [answer(task, blob, here) for (task, blob), here in zip(tasks, alone, strict=True)]
    for (report, blob), (known, known_blob) in zip(found, expected, strict=True):
        assert known.outcome == "trained", known.code
        assert (report.examples, report.received, report.train_loss) == (
            known.examples, known.received, known.train_loss
        )  # fmt: skip
        assert blob == known_blob
