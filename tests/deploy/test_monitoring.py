"""What is shipped for Prometheus and Grafana names only metrics that are really exposed, and is well-formed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from server.deployment.metrics import exposition as of_coordinator
from server.store.metrics import TOLD, exposition
from server.store.opening import open_store
from server.trust.provision import initialise

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
METRIC = re.compile(r"\bfedlora_\w+")
HEALTH = {"superlink": {"ready": True, "starts": 1}}


@pytest.fixture(scope="module")
def exposed(tmp_path_factory) -> set[str]:
    """Every metric by name, as an empty store and a new coordinator describe them."""
    folder = tmp_path_factory.mktemp("monitoring")
    store = open_store(folder / "fedlora.db")
    settings = initialise(folder / "server", name="net", address="x:1")
    texts = [exposition(store).decode(), of_coordinator(settings, lambda: HEALTH).decode()]
    store.close()
    return {family.name + ("_total" if family.type == "counter" else "")
            for text in texts for family in text_string_to_metric_families(text)}  # fmt: skip


def rules() -> list[dict]:
    return [rule for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_a_rule_has_a_severity_and_a_summary_and_watches_what_is_exposed(rule, exposed):
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"]["summary"]
    used = set(METRIC.findall(rule["expr"]))
    assert used
    assert used <= exposed


def test_the_alert_says_budgets_at_the_share_at_which_the_event_does():
    from server.store.notices import NEARLY

    (rule,) = (rule for rule in rules() if rule["alert"] == "FedloraBudgetNearlySpent")
    assert f">= {NEARLY} * fedlora_epsilon_budget" in rule["expr"]


def test_prometheus_loads_the_rules():
    settings = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    assert settings["rule_files"] == ["/etc/prometheus/alerts.yml"]
    assert "./deploy/alerts.yml:/etc/prometheus/alerts.yml:ro" in (DEPLOY.parent / "docker-compose.yml").read_text()


def test_promtool_accepts_the_rules():
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed here")
    subprocess.run([promtool, "check", "rules", str(DEPLOY / "alerts.yml")], check=True)


def test_the_grafana_dashboard_says_what_sites_run_on():
    """Whoever upgrades sees which sites are left; the columns are the metric's own labels."""
    panels = json.loads((DEPLOY / "grafana-dashboard.json").read_text())["panels"]
    (panel,) = (panel for panel in panels if panel["targets"][0]["expr"] == "fedlora_site_info")
    assert (panel["type"], panel["targets"][0]["format"], panel["targets"][0]["instant"]) == ("table", "table", True)
    (organised,) = (step["options"] for step in panel["transformations"] if step["id"] == "organize")
    assert set(organised["indexByName"]) == {"site", *TOLD}


def test_the_grafana_dashboard_shows_what_is_exposed_and_no_panel_covers_another(exposed):
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    cells: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        used = {name for target in panel["targets"] for name in METRIC.findall(target["expr"])}
        assert used, panel["title"]
        assert used <= exposed, panel["title"]
        where = panel["gridPos"]
        taken = {
            (x, y)
            for x in range(where["x"], where["x"] + where["w"])
            for y in range(where["y"], where["y"] + where["h"])
        }
        assert not cells & taken, panel["title"]
        cells |= taken
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
