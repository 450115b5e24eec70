"""What an administrator damages, mistypes or restores beside what is at work is said, and costs nothing that runs."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent import futures

import grpc
import pytest
import yaml

from client.deployment.agent import require_ready
from client.deployment.enroll import accept, ask
from client.flower import executor
from client.flower.standing import Standing, standing
from client.settings import load_client
from fedlora.config import Recipe
from fedlora.processes.living import Process, born, environment_of, is_alive
from fedlora.settings import SettingsError
from server.deployment.doctor import all_runs
from server.deployment.up import SERVED, end_serverapps
from server.runs.attempts import MOST_FRUITLESS, Watch, go_on
from server.runs.submissions import Status, read_submission, submit, write_status
from server.trust.provision import LastRegistry, approve, initialise, read_registry


class Flower:
    """Takes every run."""

    submitted = 0

    def submit(self, bundle: object) -> str:
        self.submitted += 1
        return str(self.submitted)


@pytest.fixture
def settings(tmp_path):
    return initialise(tmp_path / "server", name="net", address="localhost:1")


@pytest.fixture
def site(settings, tmp_path):
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"t {n},{'ab'[n % 2]}\n" for n in range(40)))
    accept(tmp_path / "site", approve(settings, ask(tmp_path / "site", site="site")), train=tmp_path / "train.csv")
    return tmp_path / "site"


def test_no_attempt_is_made_and_none_counted_while_sites_cannot_be_read(settings):
    folder, flower, watch = submit(settings, Recipe(), name="first"), Flower(), Watch()
    whole = (settings.folder / "sites.json").read_bytes()
    (settings.folder / "sites.json").write_text('[{"na')
    for second in range(2 * MOST_FRUITLESS):
        go_on(settings, flower, now=1e9 + 1000 * second, watch=watch)
    assert "restore it from a backup" in watch.conditions.all()["run first"].why
    assert (flower.submitted, read_submission(folder).attempts) == (0, 0)
    (settings.folder / "sites.json").write_bytes(whole)
    go_on(settings, flower, now=2e9, watch=watch)
    assert (flower.submitted, "run first" in watch.conditions.all()) == (1, False)


@pytest.mark.parametrize("damage", ["", '{"site": null}', "[]"])
def test_a_run_goes_on_with_the_sites_that_it_last_read_and_says_so_once(settings, site, damage, caplog):
    sites = LastRegistry(settings)
    assert sites.read().sites.keys() == {"site"}
    (settings.folder / "sites.json").write_text(damage)
    assert sites.read().sites.keys() == {"site"}
    assert sites.read().sites.keys() == {"site"}
    assert [record.message for record in caplog.records] == ["the run continues with the sites that it last read"]
    with pytest.raises(SettingsError, match="cannot read"):
        LastRegistry(settings).read()


@pytest.mark.skipif(sys.platform != "linux", reason="a process's environment is asked of /proc")
@pytest.mark.parametrize("own", [True, False])
def test_a_serverapp_of_another_folder_is_left_alone_whatever_the_notes_say(settings, tmp_path, own):
    """A copy that was restored from a backup has the notes of a coordinator that may be at work."""
    folder, config = submit(settings, Recipe(), name="first"), settings.folder / "server.yaml"
    served = str(config.resolve() if own else tmp_path / "elsewhere" / "server.yaml")
    sleeps = subprocess.Popen(
        [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"],
        env={**os.environ, SERVED: served}, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert sleeps.stdout.readline() == b"\n"
        process = Process(sleeps.pid, born(sleeps.pid))
        assert (environment_of(process, SERVED), environment_of(process, "NO_SUCH_NAME")) == (served, None)
        write_status(folder, Status(state="running", flower_run="1", pid=process.pid, born=process.born))
        end_serverapps(settings, config)
        assert is_alive(process) is not own
    finally:
        sleeps.kill()
        sleeps.wait()
        sleeps.stdout.close()


def test_a_damaged_run_is_a_bad_finding(settings):
    folder = submit(settings, Recipe(), name="first")
    assert all_runs(settings).grade == "good"
    (folder / "submission.json").write_text("{")
    found = all_runs(settings)
    assert (found.grade, "first cannot be read" in found.said) == ("bad", True)


def test_a_policy_that_cannot_be_read_stops_agent_and_executor(site, caplog):
    settings = load_client(site / "client.yaml")
    require_ready(settings)
    executor.require_policy(settings)
    (site / "policy.yaml").write_text("datasets: {}\ndatasets: {}\n")
    with pytest.raises(SettingsError, match="line 1 and line 2 both set datasets"):
        require_ready(settings)
    (site / "policy.yaml").write_text("largest_epsilom: 3\n")
    with pytest.raises(SystemExit):
        executor.require_policy(settings)
    assert "largest_epsilom" in caplog.records[-1].why


def test_other_data_with_a_second_grant_are_not_taken_in_silence(settings, site, tmp_path):
    again = approve(settings, ask(site, site="site"))
    accept(site, again, train=tmp_path / "train.csv")
    other = tmp_path / "other.csv"
    with pytest.raises(SettingsError, match=r"its data\.train is .*train\.csv, not .*other\.csv\. Write it there"):
        accept(site, again, train=other)
    assert yaml.safe_load((site / "client.yaml").read_text())["data"]["train"] == str(tmp_path / "train.csv")
    (site / "client.yaml").write_text("site: site\ndata:\n")
    with pytest.raises(SettingsError, match=r"its data\.train is None"):
        accept(site, again, train=other)


def test_a_coordinator_of_another_authority_is_told_from_one_that_is_away(settings, site, tmp_path):
    other = initialise(tmp_path / "other", name="net", address="localhost:1")
    pem = (other.pki / "server.pem").read_bytes()
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials([(pem, pem)]))
    server.start()
    here = load_client(site / "client.yaml").model_copy(update={"coordinator": f"localhost:{port}"})
    try:
        assert standing(here) is Standing.OTHER_AUTHORITY
    finally:
        server.stop(None).wait()
    assert standing(here) is Standing.AWAY


def test_the_registry_that_is_read_is_the_one_that_is_there(settings, site):
    assert LastRegistry(settings).read() == read_registry(settings)
