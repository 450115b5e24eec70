"""What is said of a run's ε is never below what the sites' ledgers hold, whatever becomes of their answers."""

from __future__ import annotations

import json
import random
from contextlib import closing
from pathlib import Path

import pytest

from fedlora.config import Recipe
from fedlora.privacy.accounting import epsilon, filtered_epsilon
from fedlora.privacy.calibration import filter_order
from fedlora.privacy.ledger import LedgerFiles, read_ledger
from fedlora.privacy.spending import event_of
from fedlora.settings import SettingsError
from server.record.records import RoundFinished, TasksSent
from server.record.sent import SentTasks
from server.replies.quorum import QuorumError
from server.store.importing import import_run
from server.store.metrics import exposition
from server.store.opening import open_store
from server.store.privacy import read_privacy
from server.store.reading import read_rounds, read_runs
from server.store.spent import read_spent
from simulations.local_grid import Fault
from simulations.run import prepare, simulate
from tests.federations import CLIENTS, NODES, save_messages, save_tiny_model, tiny_recipe

TARGET, SIGMA = "privacy.epsilon=3", "privacy.noise_multiplier=1.1"
LATE, LOST, RAISED = Fault("delay", delay_s=60.0), Fault("drop"), Fault("error")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    model, source = save_tiny_model(folder / "model"), save_messages(folder / "messages.csv")
    return lambda *overrides: tiny_recipe(model, source, "rounds.quorum=0.25", "rounds.deadline_s=2", *overrides)


def run(recipe, out: Path, faults=None, *, resume: bool = False, watch=lambda event: None) -> dict:
    store = str(out.parent / "store.db")
    return simulate(prepare(recipe), out, watch=watch, faults=faults, resume=resume, store=store)


def in_rounds(fault: Fault, *numbers: int, site: str = "red"):
    """The fault in these rounds of one site's."""

    def faults(node, message):
        number = json.loads(str(message.content.config_records["task"]["json"]))["round"]
        return fault if node == NODES[site] and number in numbers else None

    return faults


def charged(out: Path, site: str, recipe: Recipe | None = None) -> float:
    """ε of the run by the site's own ledger; by the filter where the recipe adapts its noise."""
    files = LedgerFiles(out / "sites" / site, "default")
    entries = read_ledger(files, public_key=None).entries if files.ledger.exists() else ()
    events = [event_of(entry.fields) for entry in entries if entry.kind == "charge"]
    if recipe is None or recipe.privacy.adapt is None or not events:
        return epsilon(events, delta=1e-5)
    steps = recipe.most_charges * recipe.train.steps
    order = filter_order(recipe.privacy.epsilon, delta=1e-5, rate=events[0].rate, steps=steps)
    return filtered_epsilon(events, delta=1e-5, order=order)


def told_alike(out: Path, summary: dict) -> None:
    """Summary, store, metrics and model card say one thing."""
    worst = summary["epsilon_max"]
    assert worst == max(summary["epsilon_by_client"].values())
    with closing(open_store(out.parent / "store.db")) as store:
        with store.reading() as connection:
            (run,) = [row for row in read_runs(connection) if row.name == out.name]
            spent = {row.site: row for row in read_spent(connection, run=run)}
            rounds = read_rounds(connection, run)
        metrics = exposition(store).decode()
    assert (run.epsilon_max, rounds[-1].epsilon_max) == (worst, worst)
    for site, row in spent.items():
        assert (row.epsilon, row.confirmed) == (summary["epsilon_by_client"][site], summary["epsilon_confirmed"][site])
        assert row.unconfirmed == summary["tasks_sent_unconfirmed"][site]
        assert row.epsilon - row.confirmed == summary["epsilon_sent_unconfirmed"][site]
        assert f'fedlora_run_epsilon{{run="{out.name}",site="{site}"}} {row.epsilon}' in metrics
    assert set(spent) == set(summary["epsilon_by_client"])
    card = (out / "adapter" / "README.md").read_text()
    assert float(card.split("ε is at most ")[1].split()[0]) == pytest.approx(worst + 0.005, abs=0.0051)


@pytest.mark.parametrize("budget", [TARGET, SIGMA])
def test_a_receipt_covers_the_late_answers_before_it(recipe, tmp_path, budget):
    out = tmp_path / "run"
    summary = run(recipe(budget), out, in_rounds(LATE, 1, 2))
    assert summary["epsilon_by_client"] == {site: pytest.approx(charged(out, site), rel=1e-9) for site in CLIENTS}
    assert set(summary["tasks_sent_unconfirmed"].values()) == {0}
    told_alike(out, summary)


@pytest.mark.parametrize("budget", [TARGET, SIGMA])
def test_a_last_answer_that_is_late_is_counted_at_the_noise_that_the_site_has(recipe, tmp_path, budget):
    out = tmp_path / "run"
    summary = run(recipe(budget), out, in_rounds(LATE, 3))
    assert summary["epsilon_by_client"]["red"] == pytest.approx(charged(out, "red"), rel=1e-9)
    assert summary["epsilon_confirmed"]["red"] < 0.95 * charged(out, "red")
    assert summary["tasks_sent_unconfirmed"] == {site: int(site == "red") for site in CLIENTS}
    told_alike(out, summary)


@pytest.mark.parametrize("fault", [LATE, LOST, RAISED], ids=["late", "lost", "raised"])
def test_a_site_of_which_nothing_is_heard_carries_the_runs_target(recipe, tmp_path, fault):
    out = tmp_path / "run"
    summary = run(recipe(TARGET), out, in_rounds(fault, 1, 2, 3))
    assert summary["epsilon_by_client"]["red"] == summary["epsilon_max"] == 3.0 >= charged(out, "red")
    assert (summary["epsilon_confirmed"]["red"], summary["tasks_sent_unconfirmed"]["red"]) == (0.0, 3)
    told_alike(out, summary)


def test_without_a_target_it_carries_what_the_noise_costs_a_site_of_any_size(recipe, tmp_path):
    summary = run(recipe(SIGMA), tmp_path / "run", in_rounds(LATE, 1, 2, 3))
    assert summary["epsilon_by_client"]["red"] > 2 * charged(tmp_path / "run", "red") > 0
    told_alike(tmp_path / "run", summary)


def test_an_answer_over_a_quota_has_been_paid_for(recipe, tmp_path):
    """White does not get two of its tasks: it has quota left for the last round, and gives it a quorum."""
    out = tmp_path / "run"
    once = run(recipe(SIGMA, "rounds.count=1"), tmp_path / "once")["bytes_up"] / len(CLIENTS)
    asked = recipe(SIGMA, f"quotas.bytes_per_run={int(2.6 * once)}", "rounds.quorum=0.01")
    summary = run(asked, out, in_rounds(LOST, 1, 2, site="white"))
    last = json.loads((out / "rounds.jsonl").read_text().splitlines()[-1])["clients"]
    assert [client["code"] for client in last] == ["over-bytes-per-run"] * 3 + [None]
    for site in CLIENTS[:3]:
        assert summary["epsilon_by_client"][site] == pytest.approx(charged(out, site), rel=1e-9)
        assert summary["epsilon_confirmed"][site] < 0.95 * charged(out, site)
    assert list(summary["tasks_sent_unconfirmed"].values()) == [1, 1, 1, 2]
    told_alike(out, summary)


def test_a_quorum_that_is_lost_does_not_lose_what_was_paid(recipe, tmp_path):
    out, settings = tmp_path / "run", recipe(TARGET, "privacy.spare_rounds=1", "rounds.quorum=1.0")
    with pytest.raises(QuorumError):
        run(settings, out, in_rounds(LATE, 2))
    spent = SentTasks(out).spent(settings)
    assert {site: spent[site].epsilon for site in CLIENTS} == {
        site: pytest.approx(charged(out, site), rel=1e-9) for site in CLIENTS
    }
    assert [spent[site].unconfirmed for site in CLIENTS] == [0, 0, 1, 0]
    with closing(open_store(tmp_path / "store.db")) as store, store.reading() as connection:
        (failed,) = read_runs(connection)
        ledgers = {row.site: row for row in read_privacy(connection)}
    assert failed.epsilon_max == max(site.epsilon for site in spent.values())
    assert (ledgers["red"].unconfirmed, ledgers["blue"].unconfirmed) == (1, 0)
    assert ledgers["red"].at_most == pytest.approx(charged(out, "red"), rel=1e-6)
    assert ledgers["red"].at_most > ledgers["red"].epsilon
    summary = run(settings, out, resume=True)
    assert set(summary["tasks_sent_unconfirmed"].values()) == {0}
    assert summary["epsilon_by_client"] == {site: pytest.approx(charged(out, site), rel=1e-9) for site in CLIENTS}
    told_alike(out, summary)


class PullThePlugError(Exception):
    """The coordinator is gone."""


@pytest.mark.parametrize("event", [TasksSent, RoundFinished])
def test_a_coordinator_that_dies_forgets_nothing_that_it_sent(recipe, tmp_path, event):
    out = tmp_path / "run"

    def die(happened) -> None:
        if isinstance(happened, event):
            raise PullThePlugError

    with pytest.raises(PullThePlugError):
        run(recipe(TARGET), out, watch=die)
    unsure = SentTasks(out).spent(recipe(TARGET))
    assert set(unsure) == set(CLIENTS)
    assert all(site.epsilon >= charged(out, name) for name, site in unsure.items())
    assert [site.unconfirmed for site in unsure.values()] == [int(event is TasksSent)] * len(CLIENTS)
    summary = run(recipe(TARGET), out, resume=True)
    assert set(summary["tasks_sent_unconfirmed"].values()) == {0}
    told_alike(out, summary)


def test_a_line_that_a_crash_cut_short_was_not_sent_and_the_next_one_is_whole(recipe, tmp_path):
    out = tmp_path / "run"
    run(recipe(TARGET, "rounds.count=1"), out)
    path = out / "sent.jsonl"
    path.write_bytes(path.read_bytes() + b'{"round": 2, "sent": [[1000, "bl')
    SentTasks(out)
    assert path.read_bytes().endswith(b'"bl'), "who only reads may do so while the line is being written"
    SentTasks(out).post(2, [(NODES["blue"], "blue", "d2")])
    spent = SentTasks(out).spent(recipe(TARGET, "rounds.count=2"))
    assert [spent[site].unconfirmed for site in CLIENTS] == [1, 0, 0, 0]
    path.write_bytes(path.read_bytes().replace(b'{"round": 2', b'{"rou', 1))
    with pytest.raises(SettingsError, match=r"sent\.jsonl is damaged: it records what sites may have spent"):
        SentTasks(out)


def test_a_run_of_before_there_was_such_a_file_is_read_from_its_rounds(recipe, tmp_path):
    out = tmp_path / "run"
    summary = run(recipe(TARGET), out, in_rounds(LATE, 3))
    (out / "sent.jsonl").unlink()
    assert SentTasks(out).spent(recipe(TARGET))["red"].epsilon == summary["epsilon_by_client"]["red"]
    with closing(open_store(tmp_path / "again.db")) as store, store.writing() as connection:
        import_run(connection, out, name="again", who="me", now=1.0)
        (found,) = read_runs(connection)
        assert found.epsilon_max == summary["epsilon_max"]
        assert {row.site: row.unconfirmed for row in read_spent(connection)}["red"] == 1


def test_noise_from_a_seed_is_told_also_where_no_receipt_came(recipe, tmp_path):
    out = tmp_path / "run"
    summary = run(
        recipe(TARGET, "privacy.insecure_seed=3", "rounds.count=1"), out, lambda node, message: late_but_blue(node)
    )
    assert summary["insecure_noise"] is True
    assert "The noise came from a seed" in (out / "adapter" / "README.md").read_text()


def late_but_blue(node: int) -> Fault | None:
    return None if node == NODES["blue"] else LATE


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_late_lost_or_raised_no_ledger_holds_more_than_is_said(recipe, tmp_path, seed):
    draw = random.Random(seed)
    settings = draw.choice([(TARGET,), (SIGMA,), (TARGET, "privacy.adapt={below: 0.9}")])
    asked = recipe(*settings, f"privacy.spare_rounds={draw.choice([0, 2])}", "rounds.quorum=0.5")
    plan = {}

    def faults(node, message):
        number = json.loads(str(message.content.config_records["task"]["json"]))["round"]
        return plan.setdefault((node, number), draw.choice([None, None, None, LATE, LOST, RAISED]))

    out, summary, attempts = tmp_path / "run", None, 0
    while summary is None and attempts < 6:
        try:
            summary = run(asked, out, faults, resume=attempts > 0)
        except QuorumError:
            attempts += 1
            for site, spent in SentTasks(out).spent(asked).items():
                assert spent.confirmed - 1e-9 <= charged(out, site, asked) <= spent.epsilon + 1e-9
            plan = dict.fromkeys(plan)
    assert summary is not None
    for site in CLIENTS:
        assert summary["epsilon_confirmed"][site] - 1e-9 <= charged(out, site, asked)
        assert charged(out, site, asked) <= summary["epsilon_by_client"][site] + 1e-9
    told_alike(out, summary)
