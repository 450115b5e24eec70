"""A site that is killed between its charge and its answer: the coordinator's summary and store count what was sent."""

from __future__ import annotations

import json
import time
from contextlib import closing

import pytest

from fedlora.config import load
from fedlora.privacy.accounting import epsilon
from fedlora.privacy.ledger import LedgerFiles, read_ledger
from fedlora.privacy.spending import event_of
from server.store.opening import open_store
from server.store.reading import read_runs
from server.store.spent import read_spent
from simulations.data.site_files import write_site_files
from simulations.deployment import DEMO_RECIPE, make_deployment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

OVERRIDES = [
    "rounds.count=1", "rounds.min_clients=2", "rounds.quorum=0.5", "rounds.grace_s=3", "rounds.deadline_s=300",
    "train.steps=40", "train.batch_size=8", "model.max_tokens=24", "data.held_out=200", "data.train_fraction=0.3",
    "privacy.epsilon=3",
]  # fmt: skip


def test_a_site_that_dies_after_its_charge_is_counted_in_summary_store_and_model_card(tmp_path):
    recipe = load(DEMO_RECIPE, OVERRIDES)
    names = write_site_files(recipe, tmp_path / "data")[:2]
    store_url = f"sqlite:///{tmp_path / 'store.db'}"
    labels = ("negative", "neutral", "positive")
    deployment = make_deployment(
        tmp_path, sites=names, data=tmp_path / "data", labels=labels, server={"store": store_url}
    )
    alive, dies = names
    files = LedgerFiles(deployment.folder / dies / "state", "default")
    with deployment:
        deployment.start_all()
        folder = deployment.submit(recipe, name="one-round")
        give_up = time.monotonic() + 300
        while not (files.ledger.exists() and b'"charge"' in files.ledger.read_bytes()):
            assert time.monotonic() < give_up, "the site was never asked"
            time.sleep(0.05)
        deployment.kill(dies)
        deployment.wait_run(folder, timeout_s=300)
    charges = [entry.fields for entry in read_ledger(files, public_key=None).entries if entry.kind == "charge"]
    summary = json.loads((folder / "summary.json").read_text())
    assert 0 < epsilon(map(event_of, charges), delta=1e-5) <= summary["epsilon_by_client"][dies] == 3.0
    assert (summary["epsilon_confirmed"][dies], summary["tasks_sent_unconfirmed"][dies]) == (0.0, 1)
    assert 0 < summary["epsilon_confirmed"][alive] == summary["epsilon_by_client"][alive] < 3.0
    assert summary["epsilon_max"] == 3.0
    with closing(open_store(store_url)) as store, store.reading() as connection:
        (run,) = read_runs(connection)
        told = {row.site: (row.epsilon, row.unconfirmed) for row in read_spent(connection, run=run)}
    assert run.epsilon_max == summary["epsilon_max"]
    assert told == {dies: (3.0, 1), alive: (summary["epsilon_by_client"][alive], 0)}
    assert "ε is at most 3.00" in (folder / "adapter" / "README.md").read_text()
