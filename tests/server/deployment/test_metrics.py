"""What a scrape says is what the files say, in a form that Prometheus's own parser reads."""

from __future__ import annotations

import json
import time
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from client.deployment.enroll import ask
from fedlora.config import Recipe
from fedlora.deployment.health import serve_metrics
from fedlora.processes.duties import Conditions
from server.deployment.metrics import exposition, last_records
from server.flower.admitted import Seen
from server.runs.submissions import submit
from server.trust.certificates import CA_DAYS, SERVER_DAYS
from server.trust.provision import approve, initialise, revoke

HEALTH = {"superlink": {"ready": True, "starts": 3}, "executor": {"ready": False, "starts": 1}}


@pytest.fixture
def settings(tmp_path):
    made = initialise(tmp_path / "server", name="net", address="x:1")
    for site in ("a", "b", "c"):
        approve(made, ask(tmp_path / site, site=site))
    revoke(made, "c")
    folder = submit(made, Recipe(), name="first")
    lines = [
        {"clients": [{"outcome": "trained"}, {"outcome": "late"}], "bytes_up": 7 * n, "bytes_down": 9, "seconds": 1.5,
         "evaluation": {"loss": 0.9, "accuracy": 0.5, "examples": 20} if n == 1 else None}
        for n in (1, 2)
    ]  # fmt: skip
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return made


@pytest.mark.parametrize("damaged", ["sites.json", "pki/server.pem", "runs/first/submission.json"])
def test_what_cannot_be_read_is_absent_and_the_rest_is_there(settings, damaged):
    submit(settings, Recipe(), name="second")
    (settings.folder / damaged).write_text("")
    found = samples(exposition(settings, lambda: HEALTH).decode())
    assert found["fedlora_process_ready", "superlink"] == 1
    assert found["fedlora_run_state", "second", "waiting"] == 1
    assert (("fedlora_run_state", "damaged", "first") in found) == damaged.startswith("runs/")
    assert (("fedlora_sites", "approved") in found) == (damaged != "sites.json")
    assert (("fedlora_certificate_days",) in found) == (damaged != "pki/server.pem")


def test_a_scrape_says_which_duty_is_not_well(settings):
    conditions = Conditions()
    conditions.say("sites", None)
    conditions.say("superlink", "no answer")
    found = samples(exposition(settings, lambda: HEALTH, conditions.all).decode())
    assert (found["fedlora_duty_ok", "sites"], found["fedlora_duty_ok", "superlink"]) == (1, 0)


def samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_scrape_says_what_the_files_say(settings):
    found = samples(exposition(settings, lambda: HEALTH).decode())
    assert SERVER_DAYS - 1 < found.pop(("fedlora_certificate_days",)) < SERVER_DAYS
    assert CA_DAYS - 1 < found.pop(("fedlora_authority_days",)) < CA_DAYS
    assert found.pop(("fedlora_disk_free_bytes",)) > 0
    for site in ("a", "b"):
        assert time.time() - 60 < found.pop(("fedlora_site_granted_timestamp_seconds", site)) <= time.time()
    assert found == {
        ("fedlora_site_seen_timestamp_seconds", "a"): 0, ("fedlora_site_seen_timestamp_seconds", "b"): 0,

        ("fedlora_process_ready", "superlink"): 1, ("fedlora_process_ready", "executor"): 0,
        ("fedlora_process_starts", "superlink"): 3, ("fedlora_process_starts", "executor"): 1,
        ("fedlora_sites", "approved"): 2, ("fedlora_sites", "revoked"): 1,
        ("fedlora_run_state", "first", "waiting"): 1, ("fedlora_run_rounds", "first"): 2,
        ("fedlora_run_attempts", "first"): 0, ("fedlora_round_clients", "first", "trained"): 1,
        ("fedlora_round_clients", "first", "late"): 1, ("fedlora_round_bytes", "first", "up"): 14,
        ("fedlora_round_bytes", "down", "first"): 9, ("fedlora_round_seconds", "first"): 1.5,
        ("fedlora_accuracy", "first"): 0.5,
        ("fedlora_evaluation", "accuracy", "first"): 0.5, ("fedlora_evaluation", "first", "loss"): 0.9,
    }  # fmt: skip


def test_a_site_that_came_is_told_from_one_that_never_did(settings):
    Seen(settings.folder, clock=lambda: 1000.0)("a")
    found = samples(exposition(settings, lambda: HEALTH).decode())
    assert found["fedlora_site_seen_timestamp_seconds", "a"] == 1000
    assert found["fedlora_site_seen_timestamp_seconds", "b"] == 0


def test_certificates_and_a_registry_that_cannot_be_read_cost_their_own_metrics_alone(settings):
    (settings.pki / "server.pem").write_text("x")
    (settings.pki / "ca.crt").write_text("x")
    found = samples(exposition(settings, lambda: HEALTH).decode())
    assert ("fedlora_certificate_days",) not in found
    assert found["fedlora_run_rounds", "first"] == 2


def test_a_line_that_is_being_written_is_not_read(settings):
    path = settings.runs / "first" / "rounds.jsonl"
    with path.open("a") as file:
        file.write('{"clients": [')
    assert len(last_records(path)) == 2


def test_the_endpoint_serves_them(settings):
    server = serve_metrics(lambda: exposition(settings, lambda: HEALTH), host="127.0.0.1", port=0)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=5) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            assert samples(answer.read().decode())["fedlora_run_rounds", "first"] == 2
    finally:
        server.shutdown()
        server.server_close()
