"""Backups: whole or not at all, of one moment, private, and enough to go on from."""

from __future__ import annotations

import json
import shutil
import sqlite3
import stat
import tarfile
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.deployment.backup import back_up as back_up_site
from client.deployment.backup import restore as restore_site
from client.deployment.commands import app as client
from client.deployment.enroll import accept, ask
from client.settings import load_client
from fedlora.deployment.archive import CONTENTS, read_about, restore_archive, write_archive
from fedlora.privacy.ledger import LedgerFiles, exclusive_ledger, inspect_ledger
from fedlora.privacy.signing import load_or_create_key
from fedlora.settings import SettingsError
from server.commands.admin import admin
from server.dashboard.doors.access import Access, Role, access_path
from server.deployment.backup import back_up, restore
from server.runs.submissions import completed_rounds
from server.store.audit import read_events, verify_events
from server.store.opening import open_existing, open_store
from server.trust.provision import approve, initialise, read_registry
from server.trust.told import tell
from simulations.data.site_files import write_site_files
from simulations.deployment import Deployment, make_deployment
from tests.faults import Killed, at_every_step, full
from tests.federations import save_messages, save_tiny_model, tiny_recipe

OF_THIS_MACHINE = ("superlink.db", "processes.json", "coordinator.json", "owner.lock")


@pytest.fixture
def coordinator(tmp_path):
    """A folder with a bit of everything, not running."""
    settings = initialise(tmp_path / "server", name="net", address="localhost:1")
    accept(tmp_path / "site", approve(settings, ask(tmp_path / "site", site="a")), train=tmp_path / "train.csv")
    tell(settings, "site-approved", site="a")
    Access(access_path(settings.store_url)).add_user("ann", Role.ADMIN, "a long enough password")
    run = settings.runs / "first"
    run.mkdir(parents=True)
    (run / "rounds.jsonl").write_text('{"round": 1}\n')
    for name in (*OF_THIS_MACHINE, "superlink.db-wal", "sites.lock", "logs/superlink.log", "flower/x/y"):
        (settings.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (settings.folder / name).write_text("not needed")
    return settings


def test_a_coordinators_backup_has_all_that_it_needs_and_is_private(coordinator, tmp_path):
    about = back_up(coordinator, tmp_path / "b.tar")
    assert stat.S_IMODE((tmp_path / "b.tar").stat().st_mode) == 0o600
    assert set(about.digests) >= {
        "server.yaml", "secret", "sites.json", "granted.json", "pki/ca.key", "pki/ca.crt", "pki/server.pem", "store.db",
        "store.access.json", "runs/first/rounds.jsonl",
    }  # fmt: skip
    assert not any(name.startswith(("superlink", "logs", "flower")) or "lock" in name for name in about.digests)
    assert not {*OF_THIS_MACHINE} & set(about.digests)
    _, again = restore(tmp_path / "b.tar", tmp_path / "again")
    assert read_registry(again) == read_registry(coordinator)
    assert again.name == "net"
    assert {stat.S_IMODE(path.stat().st_mode) for path in again.folder.rglob("*") if path.is_file()} == {0o600}
    with open_existing(again.store_url).reading() as connection:
        assert verify_events(connection) is None
        assert [event.kind for event in read_events(connection)] == ["site-approved"]
    assert "ann" in Access(access_path(again.store_url)).now().users


def test_the_store_is_copied_as_of_one_moment_while_somebody_writes(coordinator, tmp_path):
    writer = sqlite3.connect(coordinator.folder / "store.db")
    writer.execute("CREATE TABLE pairs (a INTEGER)")
    writer.commit()
    writer.execute("INSERT INTO pairs VALUES (1)")  # not committed
    back_up(coordinator, tmp_path / "b.tar")
    writer.commit()
    writer.close()
    _, again = restore(tmp_path / "b.tar", tmp_path / "again")
    with sqlite3.connect(again.folder / "store.db") as found:
        assert found.execute("SELECT count(*) FROM pairs").fetchone() == (0,)


def test_a_backup_overwrites_nothing_and_neither_does_restoring_it(coordinator, tmp_path):
    back_up(coordinator, tmp_path / "b.tar")
    before = (tmp_path / "b.tar").read_bytes()
    with pytest.raises(SettingsError, match="not overwritten"):
        back_up(coordinator, tmp_path / "b.tar")
    assert (tmp_path / "b.tar").read_bytes() == before
    with pytest.raises(SettingsError, match="not empty"):
        restore(tmp_path / "b.tar", coordinator.folder)


@pytest.mark.parametrize("fault", [full, Killed])
def test_a_backup_that_fails_leaves_no_half_of_one(coordinator, tmp_path, monkeypatch, fault):
    out = tmp_path / "b.tar"
    for _ in at_every_step(monkeypatch, lambda: out.exists() or back_up(coordinator, out), fault):
        if out.exists():  # Python's own `finally` ran; a real kill leaves a file that restoring refuses
            read_about(out, kind="coordinator")
    read_about(out, kind="coordinator")


@pytest.mark.parametrize("spoil", ["cut", "turned", "empty", "text"])
def test_a_damaged_backup_is_refused_and_makes_nothing(coordinator, tmp_path, spoil):
    path = tmp_path / "b.tar"
    back_up(coordinator, path)
    content = bytearray(path.read_bytes())
    content[content.index(b'"round": 1') + 2] ^= 1
    path.write_bytes({"cut": content[:-20_000], "turned": content, "empty": b"", "text": b"hello" * 300}[spoil])
    with pytest.raises(SettingsError, match=r"backup|damaged|missing"):
        restore(path, tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out"])
def test_a_backup_that_somebody_made_writes_nothing_outside_its_folder(tmp_path, name):
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(SettingsError, match="not a file inside a folder"):
        restore_archive(tmp_path / "b.tar", tmp_path / "in" / "again", kind="site", last="x")
    assert not (tmp_path / "out").exists()


def test_a_backup_of_the_other_side_is_refused(coordinator, tmp_path):
    back_up(coordinator, tmp_path / "b.tar")
    with pytest.raises(SettingsError, match="of a coordinator, not of a site"):
        restore_site(tmp_path / "b.tar", tmp_path / "again")


def test_what_is_appended_meanwhile_is_not_in_it(tmp_path):
    (tmp_path / "log").write_bytes(b"x" * 100)

    def sources():
        yield "log", tmp_path / "log"
        with (tmp_path / "log").open("ab") as file:
            file.write(b"more")
        yield "gone", tmp_path / "gone"

    about = write_archive(tmp_path / "b.tar", sources(), kind="k", name="n", more={})
    assert list(about.digests) == ["log"]
    restore_archive(tmp_path / "b.tar", tmp_path / "again", kind="k", last="log")
    assert (tmp_path / "again" / "log").read_bytes() == b"x" * 100
    assert not (tmp_path / "again" / CONTENTS).exists()


def spend(state: Path, times: int) -> None:
    state.mkdir(exist_ok=True)
    files = LedgerFiles(state, "default")
    with exclusive_ledger(files, load_or_create_key(files.key)) as ledger:
        for _ in range(times):
            ledger.append({"kind": "note"})


def test_a_sites_backup_has_its_ledger_and_not_its_data(coordinator, tmp_path):
    site = tmp_path / "site"
    (site / "train.csv").write_text("text,label\n")
    (site / "client.yaml").write_text(
        (site / "client.yaml").read_text().replace(str(tmp_path / "train.csv"), "train.csv")
    )
    (site / "processes.json").write_text("not needed")
    spend(site / "state", 3)
    about = back_up_site(load_client(site / "client.yaml"), tmp_path / "b.tar")
    assert {"node.key", "site.crt", "ca.crt", "client.yaml", "policy.yaml"} <= set(about.digests)
    assert not {"train.csv", "processes.json"} & set(about.digests)
    _, again = restore_site(tmp_path / "b.tar", tmp_path / "again")
    chain = inspect_ledger(LedgerFiles(again.state, "default"))
    assert (len(chain.entries), chain.problem) == (3, None)


def test_a_sites_ledger_is_not_put_back_without_a_word(coordinator, tmp_path):
    site = tmp_path / "site"
    spend(site / "state", 3)
    back_up_site(load_client(site / "client.yaml"), tmp_path / "b.tar")
    words = ["restore", str(tmp_path / "b.tar"), str(tmp_path / "again")]
    ran = CliRunner().invoke(client, words)
    assert isinstance(ran.exception, SettingsError)
    assert "Has a trained on nothing since" in str(ran.exception)
    assert not (tmp_path / "again").exists()
    ran = CliRunner().invoke(client, [*words, "--yes"], catch_exceptions=False)
    assert "the ledger of default: 3 entries" in ran.output
    assert "bad-receipt" in ran.output


def test_what_a_restored_coordinator_does_not_know_is_said(coordinator, tmp_path):
    config = ["--config", str(coordinator.folder / "server.yaml")]
    ran = CliRunner().invoke(admin, ["backup", *config, "--out", str(tmp_path / "b.tar")], catch_exceptions=False)
    assert "b.tar" in ran.output
    ran = CliRunner().invoke(
        admin, ["restore", str(tmp_path / "b.tar"), str(tmp_path / "again")], catch_exceptions=False
    )
    assert "revoked later is approved again" in ran.output


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_coordinator_and_a_site_that_are_restored_elsewhere_finish_the_run(tmp_path):
    """The machine is lost in the middle of a private run: backup, new folders, and the same run goes on to its end."""
    recipe = tiny_recipe(
        save_tiny_model(tmp_path / "model"), save_messages(tmp_path / "messages.csv"), "rounds.count=3",
        "privacy.spare_rounds=6",
        "rounds.min_clients=2", "privacy.noise_multiplier=2", "rounds.deadline_s=120", "rounds.wait_s=240",
        "rounds.grace_s=20",
    )  # fmt: skip
    write_site_files(recipe, tmp_path / "data")
    made = make_deployment(
        tmp_path / "first", sites=("blue", "green"), data=tmp_path / "data", labels=("bad", "good"),
        policy={"epsilon_budget": 1e6, "min_noise_multiplier": 0.1},
    )  # fmt: skip
    with made:
        made.start_all()
        folder = made.submit(recipe, name="run")
        give_up = time.monotonic() + 240
        while completed_rounds(folder) < 1:
            assert time.monotonic() < give_up, (folder / "run.log").read_text()[-2000:]
            time.sleep(0.1)
        back_up(made.settings, tmp_path / "server.tar")  # while it trains
        made.stop_one("server")
    back_up_site(load_client(made.folder / "blue" / "client.yaml"), tmp_path / "blue.tar")
    before = len(inspect_ledger(LedgerFiles(made.folder / "blue" / "state", "default")).entries)
    second = tmp_path / "second"
    _, settings = restore(tmp_path / "server.tar", second / "server")
    restore_site(tmp_path / "blue.tar", second / "blue")
    shutil.copytree(made.folder / "green", second / "green")  # a disk that was carried over
    shutil.rmtree(made.folder)
    moved = Deployment(second, settings, made.sites, made.health_ports)
    with moved:
        moved.start_all()
        moved.wait_run(settings.runs / "run", timeout_s=400)
    rounds = [json.loads(line) for line in (settings.runs / "run" / "rounds.jsonl").read_text().splitlines()]
    assert [record["round"] for record in rounds] == [1, 2, 3]
    assert {client["outcome"] for record in rounds for client in record["clients"]} == {"trained"}
    assert len(inspect_ledger(LedgerFiles(second / "blue" / "state", "default")).entries) > before - 1
    with open_store(settings.store_url).reading() as connection:
        assert verify_events(connection) is None
