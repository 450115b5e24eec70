"""Every finding of a doctor has its remedy; one that is bad makes the exit status 1; nothing is changed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from client.deployment.commands import app as client
from client.deployment.enroll import accept, ask
from fedlora.config import ModelSettings
from fedlora.deployment import checks
from fedlora.deployment.findings import bad, examine_all, good, report
from fedlora.models.base import load_base
from server.commands.server import server
from server.runs.submissions import submit
from server.settings import load_server
from server.trust.certificates import issue_server_certificate
from server.trust.provision import approve, initialise
from tests.federations import save_tiny_model, tiny_recipe


@pytest.fixture
def sides(tmp_path):
    """A coordinator's folder and a site's, both sound, neither running."""
    settings = initialise(tmp_path / "server", name="net", address="127.0.0.1:1")
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"message {n},{n % 2}\n" for n in range(120)))
    accept(tmp_path / "site", approve(settings, ask(tmp_path / "site", site="a")), train=tmp_path / "train.csv")
    config = tmp_path / "server" / "server.yaml"
    config.write_text(
        yaml.safe_dump({**yaml.safe_load(config.read_text()), "labels": ["0", "1"], "listen": "127.0.0.1:1"})
    )
    return tmp_path / "server", tmp_path / "site"


@pytest.fixture(scope="module")
def demo_fingerprint() -> str:
    return load_base(ModelSettings(), ("a", "b")).fingerprint


def findings(app, config: Path, *more: str) -> tuple[dict[str, dict[str, str]], int]:
    ran = CliRunner().invoke(app, ["doctor", "--json", "--config", str(config), *more])
    return {item["check"]: item for item in json.loads(ran.stdout)}, ran.exit_code


def test_a_sound_coordinator_that_is_not_up_has_nothing_bad(sides):
    found, status = findings(server, sides[0] / "server.yaml")
    assert status == 0
    assert found["fleet port"]["remedy"] == "fedlora server up"
    assert found["sites"]["grade"] == "doubtful"  # approved, not yet told to the SuperLink


def test_findings_are_whole_in_a_narrow_terminal_and_what_they_quote_is_no_markup(capsys):
    where = "/var/lib/fedlora/" + "deep/" * 12 + "node.key"
    listed = [good("node key", where), bad("data", "column [/red] is missing", "mend [it]")]
    assert report(listed, Console(width=60), as_json=False) == 1
    said = "".join(capsys.readouterr().out.split())
    assert where in said
    assert "column[/red]ismissing→mend[it]" in said


def test_a_sound_site_lacks_only_its_coordinator(sides):
    before = {path: path.stat().st_mtime_ns for path in sides[1].rglob("*")}
    found, status = findings(client, sides[1] / "client.yaml")
    assert status == 1
    assert [name for name, item in found.items() if item["grade"] == "bad"] == ["coordinator"]
    assert {path: path.stat().st_mtime_ns for path in sides[1].rglob("*")} == before


def test_every_finding_that_is_not_good_says_what_to_do(sides):
    (sides[1] / "node.key").chmod(0o644)
    for app, config in ((server, sides[0] / "server.yaml"), (client, sides[1] / "client.yaml")):
        found, _ = findings(app, config)
        assert all(item["remedy"] for item in found.values() if item["grade"] != "good")


@pytest.mark.parametrize(
    ("spoil", "check", "said"),
    [
        (lambda site: (site / "node.key").chmod(0o640), "node key", "0640"),
        (lambda site: (site / "ca.crt").write_text("x"), "certificate authority", "ca.crt is not a certificate"),
        (lambda site: (site / "ca.crt").unlink(), "certificate authority", "No such file"),
        (lambda site: (site.parent / "train.csv").unlink(), "data", "train.csv that client.yaml names are not there"),
        (lambda site: (site.parent / "train.csv").write_text("words,label\na,b\n"), "data", "no such column"),
        (lambda site: (site / "policy.yaml").unlink(), "policy", "missing"),
        (lambda site: (site / "policy.yaml").write_text("allow_insecure_noise: true\n"), "policy", "protects nobody"),
    ],
)
def test_what_is_wrong_at_a_site_is_named(sides, spoil, check, said):
    spoil(sides[1])
    found, status = findings(client, sides[1] / "client.yaml")
    assert (found[check]["grade"], status) == ("bad", 1)
    assert said in found[check]["said"]


def test_both_doctors_say_the_same_fingerprint_of_one_base_model_and_name_one_that_is_not_there(sides, tmp_path):
    model = save_tiny_model(tmp_path / "model")
    recipe = tiny_recipe(model, "unused.csv")
    submit(load_server(sides[0] / "server.yaml"), recipe, name="first")
    (sides[1] / "policy.yaml").write_text(f"base_models: [{model}]\n")
    here, _ = findings(server, sides[0] / "server.yaml")
    there, _ = findings(client, sides[1] / "client.yaml", "--model", model)
    assert here["base model of first"]["grade"] == there["base model"]["grade"] == "good"
    assert here["base model of first"]["said"] == there["base model"]["said"]
    there, _ = findings(client, sides[1] / "client.yaml", "--model", str(tmp_path / "nowhere"))
    assert there["base model"]["grade"] == "bad"
    assert "nowhere" in there["base model"]["said"]
    assert there["texts"]["remedy"].startswith("Mend the base model")


def test_a_base_model_that_the_policy_does_not_allow_is_said_before_a_run_is_refused(sides, tmp_path):
    model = save_tiny_model(tmp_path / "model")
    policy = sides[1] / "policy.yaml"
    for listed in ("[0123456789abcdef0123456789abcdef]", "[]"):
        policy.write_text(f"base_models: {listed}\n")
        found, _ = findings(client, sides[1] / "client.yaml", "--model", model)
        assert found["base model"]["grade"] == "bad"
        fingerprint = re.search(r"fingerprint ([0-9a-f]{32}),", found["base model"]["said"])[1]
        line = found["base model"]["remedy"].removeprefix("To allow it, write: ")
    assert line == f'base_models: ["{model}"]  # {fingerprint}'
    policy.write_text(f"base_models: [{fingerprint}]\n")
    found, _ = findings(client, sides[1] / "client.yaml", "--model", model)
    assert found["base model"]["grade"] == "bad", "a folder that a task names is loaded if it is listed itself"
    policy.write_text(f"{line}\n")
    found, _ = findings(client, sides[1] / "client.yaml", "--model", model)
    assert found["base model"]["grade"] == "good"


def test_the_line_that_a_doctor_prints_for_a_model_with_an_id_is_its_fingerprint(sides, demo_fingerprint):
    policy = sides[1] / "policy.yaml"
    found, _ = findings(client, sides[1] / "client.yaml")
    assert found["base model"]["grade"] == "doubtful", "nothing is listed: every task will be refused"
    found, _ = findings(client, sides[1] / "client.yaml", "--model", "demo")
    line = found["base model"]["remedy"].removeprefix("To allow it, write: ")
    assert line == f'base_models: ["{demo_fingerprint}"]  # demo'
    policy.write_text(f"{line}\n")
    found, _ = findings(client, sides[1] / "client.yaml", "--model", "demo")
    assert found["base model"]["grade"] == "good"
    policy.write_text("base_models: any\n")
    found, _ = findings(client, sides[1] / "client.yaml", "--model", "demo")
    assert found["base model"]["grade"] == "doubtful"


def test_an_id_that_a_hub_may_change_is_to_be_pinned(sides, demo_fingerprint):
    (sides[1] / "policy.yaml").write_text("base_models: [demo]\n")
    config = sides[1] / "client.yaml"
    assert findings(client, config)[0]["base model"]["grade"] == "good"
    config.write_text(f"{config.read_text()}download_models: true\n")
    found, _ = findings(client, config)
    assert found["base model"]["grade"] == "doubtful"
    assert f'base_models: ["{demo_fingerprint}"]' in found["base model"]["remedy"]


@pytest.mark.parametrize(
    ("declared", "grade", "said"),
    [
        (None, "doubtful", "follows the data"),
        (50, "doubtful", "delta is held against the smaller number"),
        (108, "good", "108 training examples are declared"),
        (120, "good", "120 training examples are declared"),
        (400, "doubtful", "the noise is made for more than there are"),
    ],
)
def test_a_declared_size_is_held_against_the_file(sides, declared, grade, said):
    size = "" if declared is None else f"datasets: {{default: {{public_examples: {declared}}}}}\n"
    (sides[1] / "policy.yaml").write_text(f"coordinators: [net]\n{size}")
    found, _ = findings(client, sides[1] / "client.yaml")
    assert found["public size"]["grade"] == grade
    assert said in found["public size"]["said"]


def test_a_settings_file_that_cannot_be_read_is_the_one_finding(tmp_path):
    found, status = findings(client, tmp_path / "client.yaml")
    assert (list(found), status) == (["settings"], 1)


@pytest.mark.parametrize(("days", "grade"), [(-1, "bad"), (10, "doubtful"), (100, "good")])
def test_a_certificate_is_judged_by_its_last_day(sides, days, grade):
    issue_server_certificate(sides[0] / "pki", hosts=["127.0.0.1"], days=days)
    found, _ = findings(server, sides[0] / "server.yaml")
    assert found["server certificate"]["grade"] == grade
    assert (found["server certificate"]["remedy"] != "") == (grade != "good")


def test_a_store_that_is_away_is_named_without_its_password(sides):
    config = sides[0] / "server.yaml"
    config.write_text(f"{config.read_text()}store: postgresql://fedlora:hunter2@127.0.0.1:1/fedlora\n")
    found, status = findings(server, config)
    assert (found["store"]["grade"], status) == ("bad", 1)
    assert "127.0.0.1:1" in found["store"]["said"]
    assert "hunter2" not in str(found)


def test_a_certificate_for_another_host_is_bad(sides):
    path = sides[0] / "pki" / "server.pem"
    assert checks.certificate("c", path, remedy="r", host="elsewhere.example").grade == "bad"


def test_a_check_that_breaks_does_not_hide_the_others():
    def broken():
        raise RuntimeError("boom")

    found = examine_all([("first", broken), ("second", checks.versions)])
    assert [(item.check, item.grade) for item in found] == [("first", "bad"), ("versions", "good")]
