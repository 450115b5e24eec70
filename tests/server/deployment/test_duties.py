"""A coordinator whose clock is set back lets its sites in again; one whose clock drifts changes nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from client.deployment.enroll import ask
from fedlora.processes import duties as retried
from server.deployment import up
from server.deployment.up import CLOCK_STEP_S, Duties
from server.trust.certificates import days_left, issue_server_certificate
from server.trust.provision import approve, initialise
from server.trust.renewal import RENEW_DAYS
from tests.server.fakes import Clocks, FakeControl, FakeSupervisor, ticks, wrong


@pytest.fixture
def clocks(monkeypatch):
    made = Clocks()
    monkeypatch.setattr(up, "time", made)
    return made


@pytest.fixture
def settings(tmp_path):
    made = initialise(tmp_path / "server", name="net", address="x:1")
    for path in files(made.database):
        path.write_bytes(b"x")
    return made


def files(database: Path) -> list[Path]:
    return [database, database.with_name(f"{database.name}-wal"), database.with_name(f"{database.name}-shm")]


@pytest.mark.parametrize("step_s", [0.5 * CLOCK_STEP_S, 7200.0, -0.5 * CLOCK_STEP_S])
def test_a_clock_that_is_set_forward_or_a_little_back_changes_nothing(settings, clocks, step_s):
    duties, supervisor = Duties(settings, FakeControl()), FakeSupervisor()
    ticks(duties, supervisor, 3)
    clocks.ahead_s += step_s
    ticks(duties, supervisor, 3)
    assert supervisor.killed == []
    assert settings.database.exists()


def test_a_clock_that_is_set_back_costs_the_superlinks_database_once(settings, clocks):
    duties, supervisor = Duties(settings, FakeControl()), FakeSupervisor()
    ticks(duties, supervisor, 3)
    clocks.ahead_s -= 7200.0
    ticks(duties, supervisor, 5)
    assert supervisor.killed == ["superlink"]
    assert not any(path.exists() for path in files(settings.database))
    assert (settings.folder / "sites.json").exists()


def test_a_database_from_the_future_is_given_up_at_the_start(settings):
    Duties(settings, FakeControl())
    assert settings.database.exists()
    os.utime(settings.database, (time.time() + 7200, time.time() + 7200))
    Duties(settings, FakeControl())
    assert not settings.database.exists()


def test_a_superlink_that_was_started_again_is_told_of_every_site(settings, clocks, tmp_path):
    for site in ("a", "b"):
        approve(settings, ask(tmp_path / site, site=site))
    control, supervisor = FakeControl(), FakeSupervisor(pid=1)
    duties = Duties(settings, control)
    ticks(duties, supervisor, 3)
    assert (len(control.registered), control.asked) == (2, 1)  # asked once, not at every turn
    control.registered.clear()  # its database is lost, and it with it
    supervisor.pid = 2
    ticks(duties, supervisor, 3)
    assert (len(control.registered), control.asked) == (2, 2)


@pytest.mark.parametrize(("left", "renewed"), [(RENEW_DAYS + 1, False), (RENEW_DAYS - 1, True), (-1, True)])
def test_a_certificate_is_renewed_a_month_before_its_end_and_the_superlink_takes_it_up(settings, clocks, left, renewed):
    issue_server_certificate(settings.pki, hosts=["x"], days=left)
    supervisor = FakeSupervisor(pid=1)
    ticks(Duties(settings, FakeControl()), supervisor, 1)
    assert (days_left(settings.pki) > RENEW_DAYS + 1) == renewed
    assert supervisor.restarted == (["superlink"] if renewed else [])


def test_an_authority_whose_key_is_elsewhere_renews_nothing_says_so_and_runs_on(settings, clocks):
    issue_server_certificate(settings.pki, hosts=["x"], days=3)
    (settings.pki / "ca.key").unlink()
    control = FakeControl()
    duties = Duties(settings, control)
    ticks(duties, FakeSupervisor(pid=1), 1)
    assert days_left(settings.pki) < 3
    assert "could not be renewed" in wrong(duties)["certificate"]
    assert control.asked == 1


def test_a_renewal_that_fails_for_a_certificate_that_was_put_there_is_tried_again(settings, clocks, monkeypatch):
    """It was once forgotten for an hour, and called well, as soon as the certificate that is due had been taken up."""
    monkeypatch.setattr(retried, "RETRY_S", 0.0)
    duties, supervisor = Duties(settings, FakeControl()), FakeSupervisor(pid=1)
    ticks(duties, supervisor, 1)
    issue_server_certificate(settings.pki, hosts=["x"], days=3)
    key = (settings.pki / "ca.key").rename(settings.folder / "elsewhere.key")
    ticks(duties, supervisor, 3)
    assert "could not be renewed" in wrong(duties)["certificate"]
    key.rename(settings.pki / "ca.key")
    ticks(duties, supervisor, 3)
    assert days_left(settings.pki) > RENEW_DAYS
    assert wrong(duties) == {}
