"""The coordinator remembers every site's ledger across runs: an older copy, or a new one, is found by its numbers."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest

import simulations.run as run_module
from fedlora.config import Recipe
from fedlora.plain_yaml import yaml_text
from fedlora.privacy.accounting import Event, epsilon
from fedlora.privacy.carried import Spent, carry_over, event_of
from fedlora.privacy.ledger import LedgerFiles, read_ledger
from fedlora.privacy.receipt import Receipt, ReceiptError, Signature
from fedlora.privacy.signing import load_or_create_key
from fedlora.privacy.terms import mechanism_for
from fedlora.privacy.unconfirmed import Confirmed, Sent, spent_by_site
from fedlora.protocol.versions import recorded
from fedlora.settings import SettingsError
from server.coordinate import Coordination
from server.record.new_ledgers import Accepted, accept, read_accepted
from server.record.receipts import LastReceipt, clients_in, earlier, held_in, newest, require_continues
from server.record.records import RoundFinished
from server.record.sent import SentTasks
from server.settings import ServerSettings
from server.store.audit import read_events
from server.store.opening import open_existing
from server.trust.ledger_loss import give_up, lost_ledger, to_carry
from simulations.local_grid import Fault
from tests.federations import NODES, run, save_messages, save_tiny_model, tiny_recipe


def receipt(sequence: int, **changes) -> Receipt:
    values = {
        "client": "red", "dataset": "default", "run": "r", "round": 1, "task": "t", "rate": 0.1,
        "noise_multiplier": 1.0, "clip": 1.0, "steps": 1, "delta": 1e-5, "epsilon_run": 1.0, "epsilon_lifetime": 1.0,
        "delta_lifetime": 1e-5, "epsilon_allowed": 8.0, "secure": True, "sequence": sequence, "digest": str(sequence),
    }  # fmt: skip
    return Receipt(**{**values, **changes})


def record(sequence: int, key: str = "key", **changes) -> dict:
    return {
        "receipt": receipt(sequence, **changes).model_dump(),
        "signature": {"public_key": key, "signature": "ab"},
    }


def test_the_highest_number_of_every_ledger_is_held():
    held = newest([record(3), record(1), record(9, dataset="scans"), {"receipt": None}, record(2, client="blue")])
    assert {ledger: kept.receipt.sequence for ledger, kept in held.items()} == {
        ("red", "default"): 3, ("red", "scans"): 9, ("blue", "default"): 2,
    }  # fmt: skip


def test_a_ledger_goes_on_with_its_key_and_its_numbers():
    held, signed = LastReceipt(receipt(5), "key"), Signature(public_key="key", signature="ab")
    require_continues(receipt(6), signed, held)
    require_continues(receipt(5), signed, held)  # a retried task: the same entry
    require_continues(receipt(1), signed, None)
    with pytest.raises(ReceiptError, match="went back from entry 5 to 4"):
        require_continues(receipt(4), signed, held)
    with pytest.raises(ReceiptError, match="went back from entry 5 to 5"):
        require_continues(receipt(5, digest="other"), signed, held)
    with pytest.raises(ReceiptError, match="signed with another key than before"):
        require_continues(receipt(6), Signature(public_key="new", signature="ab"), held)
    with pytest.raises(ReceiptError, match="signed with another key than before"):
        require_continues(receipt(6), None, held)


def test_earlier_runs_are_read_without_this_one_and_without_damage(tmp_path, caplog):
    for name, sequence in (("one", 4), ("two", 8), ("this", 99)):
        (tmp_path / name).mkdir()
        line = json.dumps({"clients": [record(sequence)]})
        (tmp_path / name / "rounds.jsonl").write_text(f"{line}\n{line[:20]}")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "rounds.jsonl").write_text("{}\n")
    (found,) = newest(earlier(tmp_path, than=tmp_path / "this")).values()
    assert (found.receipt.sequence, found.public_key) == (8, "key")
    assert "broken/rounds.jsonl is damaged" in caplog.text
    assert clients_in(tmp_path / "nowhere" / "rounds.jsonl") == []


@pytest.mark.parametrize(
    ("old", "code_in_round_2"), [("the state of round 1", None), ("no state at all", "bad-receipt")]
)
def test_a_site_that_went_back_between_two_runs_is_found(tmp_path, monkeypatch, old, code_in_round_2):
    """An older copy until its numbers have passed those that are held; a new key for good."""
    model, source = save_tiny_model(tmp_path / "model"), save_messages(tmp_path / "messages.csv")
    runs = tmp_path / "runs"
    monkeypatch.setattr(run_module, "Coordination", partial(Coordination, runs=runs))
    recipe = tiny_recipe(model, source, "privacy.noise_multiplier=2", "rounds.count=2")
    copy = tmp_path / "copy"

    def copy_after_round_1(event) -> None:
        if type(event).__name__ == "RoundFinished" and event.record.round == 1:
            shutil.copytree(runs / "one" / "sites" / "red", copy)

    run(recipe, runs / "one", watch=copy_after_round_1)
    shutil.copytree(runs / "one" / "sites", runs / "two" / "sites")
    shutil.rmtree(runs / "two" / "sites" / "red")
    if old == "the state of round 1":
        shutil.copytree(copy, runs / "two" / "sites" / "red")
    run(recipe, runs / "two")
    rounds = codes(runs / "two")
    assert [found.pop("red") for found in rounds] == ["bad-receipt", code_in_round_2]
    assert {code for found in rounds for code in found.values()} == {None}


OLD, NEW = Signature(public_key="key", signature="ab"), Signature(public_key="new", signature="ab")


def lost(**changes) -> Accepted:
    values = {
        "site": "red", "dataset": "default", "public_key": "key", "epsilon": 3.0, "delta": 1e-5, "sequence": 9,
        "at": 0.0, "who": "me",
    }  # fmt: skip
    return Accepted(**{**values, **changes})


def stating(epsilon: float, delta: float = 1e-5, **changes) -> Receipt:
    """The first receipt of a new ledger that states this of before."""
    return receipt(1, epsilon_lifetime=epsilon + 1, epsilon_stated=epsilon, delta_stated=delta, **changes)


def test_a_new_ledger_that_was_agreed_on_is_taken_if_it_states_what_was_spent():
    (held,) = newest([record(9)], [lost()]).values()
    require_continues(stating(3.0), NEW, held)
    require_continues(stating(3.5, 2e-5), NEW, held)
    with pytest.raises(
        ReceiptError, match=r"states epsilon 2\.9 at delta 1e-05.* 3\.000 at 1e-05 may have been.*ledger carry"
    ):
        require_continues(stating(2.9), NEW, held)
    with pytest.raises(ReceiptError, match="states epsilon 3 at delta 5e-06"):
        require_continues(stating(3.0, 5e-6), NEW, held)


def test_a_new_ledger_that_has_spent_as_much_afresh_has_stated_nothing():
    (held,) = newest([record(9)], [lost()]).values()
    with pytest.raises(ReceiptError, match="states epsilon 0 at delta 0"):
        require_continues(receipt(1, epsilon_lifetime=9.0, delta_lifetime=1e-3), NEW, held)


def test_a_ledger_that_was_given_up_does_not_come_back():
    (held,) = newest([record(9)], [lost()]).values()
    with pytest.raises(ReceiptError, match="declared lost; an old copy"):
        require_continues(receipt(10, epsilon_lifetime=9.0), OLD, held)


def test_a_new_ledger_goes_on_by_its_own_numbers_and_a_third_one_needs_a_new_agreement():
    (held,) = newest([record(900), record(2, key="new", epsilon_lifetime=3.1)], [lost()]).values()
    assert (held.receipt.sequence, held.public_key) == (2, "new")
    require_continues(stating(3.0).model_copy(update={"sequence": 3}), NEW, held)
    with pytest.raises(ReceiptError, match="went back"):
        require_continues(stating(3.0), NEW, held)
    with pytest.raises(ReceiptError, match="another key than before"):
        require_continues(stating(9.0), Signature(public_key="third", signature="ab"), held)
    (held,) = newest([record(900), record(2, key="new")], [lost(), lost(public_key="new", epsilon=4.0)]).values()
    with pytest.raises(ReceiptError, match=r"4\.000 at 1e-05 may have been spent"):
        require_continues(stating(3.5), Signature(public_key="third", signature="ab"), held)


def test_an_agreement_is_of_one_site_and_dataset():
    held = newest([record(9), record(9, dataset="scans"), record(9, client="blue")], [lost()])
    for ledger in (("red", "scans"), ("blue", "default")):
        with pytest.raises(ReceiptError, match="another key than before"):
            require_continues(receipt(10, client=ledger[0], dataset=ledger[1]), NEW, held[ledger])


def test_an_agreement_that_cannot_be_read_stops_a_run_and_is_not_forgotten(tmp_path):
    accept(tmp_path, lost())
    assert read_accepted(tmp_path) == (lost(),)
    (tmp_path / "accepted_ledgers.json").write_text("[")
    with pytest.raises(SettingsError, match="restore it from a backup"):
        earlier(tmp_path, than=tmp_path / "x")


def test_a_damaged_line_costs_its_own_receipts_and_no_others(tmp_path):
    (tmp_path / "one").mkdir()
    whole = json.dumps({"clients": [record(4)]}), json.dumps({"clients": [record(2, client="blue")]})
    (tmp_path / "one" / "rounds.jsonl").write_text(f"{whole[0]}\n\x00\xff{{\n[1]\n{whole[1]}\n")
    assert held_in(tmp_path).keys() == {("red", "default"), ("blue", "default")}


def test_a_site_that_lost_its_disk_trains_again_when_both_sides_have_agreed(tmp_path, monkeypatch, caplog):
    """Until then every update is refused, and the record, the log and the audit log say why."""
    model, source = save_tiny_model(tmp_path / "model"), save_messages(tmp_path / "messages.csv")
    runs = tmp_path / "runs"
    monkeypatch.setattr(run_module, "Coordination", partial(Coordination, runs=runs))
    recipe = tiny_recipe(model, source, "privacy.noise_multiplier=2", "rounds.count=1")
    run(recipe, runs / "one")
    empty_red(runs / "one", runs / "two")
    run(recipe, runs / "two")
    for name in ("one", "two"):
        (runs / name / "recipe.yaml").write_text(yaml_text(recorded(recipe)))
    assert codes(runs / "two")[0]["red"] == "bad-receipt"
    whys = [c.get("why") for c in json.loads((runs / "two" / "rounds.jsonl").read_text())["clients"]]
    assert "accept-new-ledger" in next(filter(None, whys))
    assert "a receipt was refused" in caplog.text
    settings = ServerSettings(name="net", address="x:1", folder=tmp_path)
    found = lost_ledger(settings, "red", None)
    give_up(settings, found)
    empty_red(runs / "two", runs / "three")
    run(recipe, runs / "three")  # its first round costs exactly what the lost ledger's newest receipt says
    assert codes(runs / "three")[0]["red"] == "bad-receipt"
    empty_red(runs / "three", runs / "four")
    states(runs / "four" / "sites" / "red", to_carry(found.epsilon), found.delta)
    run(recipe, runs / "four")
    assert set(codes(runs / "four")[0].values()) == {None}
    with open_existing(settings.store_url).reading() as connection:
        (event,) = read_events(connection, kind="new-ledger-accepted")
    assert (event.fields["site"], event.fields["epsilon"]) == ("red", found.epsilon)


def states(site: Path, epsilon: float, delta: float) -> None:
    """A new ledger at the site, and what its administrator states in it."""
    key = load_or_create_key(site / "privacy" / "key.pem")
    carry_over(site, "default", Spent((), epsilon, delta), key=key, source="", reason="disk lost")


@pytest.mark.parametrize("lost_answers", [False, True])
def test_a_ledger_that_is_lost_within_a_run_is_in_what_is_said_of_the_run(tmp_path, monkeypatch, lost_answers):
    """Late answers included, of before and after the loss: neither ledger's newest receipt counts the other's."""
    model, source = save_tiny_model(tmp_path / "model"), save_messages(tmp_path / "messages.csv")
    runs = tmp_path / "runs"
    monkeypatch.setattr(run_module, "Coordination", partial(Coordination, runs=runs))
    recipe = tiny_recipe(model, source, "privacy.epsilon=3", "rounds.count=5", "rounds.quorum=0.25")
    red, gone = runs / "one" / "sites" / "red", tmp_path / "gone"

    def lose_the_disk(event) -> None:
        if isinstance(event, RoundFinished) and event.record.round == 3:
            (key,) = {c.signature.public_key for c in event.record.clients if c.client == "red" and c.signature}
            red.rename(gone)
            accept(runs, lost(epsilon=2.9, public_key=key))
            states(red, 3.0, 1e-5)

    def faults(node, message):
        number = json.loads(str(message.content.config_records["task"]["json"]))["round"]
        return Fault("delay", delay_s=60.0) if lost_answers and node == NODES["red"] and number in (1, 4) else None

    summary = run(recipe, runs / "one", watch=lose_the_disk, faults=faults)
    assert codes(runs / "one")[4]["red"] is None
    charges = [
        event_of(entry.fields)
        for site in (gone, red)
        for entry in read_ledger(LedgerFiles(site, "default"), public_key=None).entries
        if entry.kind == "charge"
    ]
    spent = SentTasks(runs / "one").spent(recipe)["red"]
    assert len(spent.ledgers) == 2
    assert spent.unconfirmed == (2 if lost_answers else 0)
    assert summary["epsilon_by_client"]["red"] == pytest.approx(epsilon(charges, delta=1e-5), rel=1e-6)


@pytest.mark.parametrize(
    ("adapt", "key", "dataset", "sequence"),
    [
        ((), "new", "default", 1),
        ((), "key", "renamed", 1),
        ((), "key", "default", 1),
        (("privacy.adapt={below: 0.9}",), "new", "default", 1),
    ],
    ids=["another key", "renamed", "put back", "adapts"],
)
def test_several_ledgers_of_a_site_are_composed_and_may_pass_the_target_together(recipe, adapt, key, dataset, sequence):
    asked = recipe("privacy.epsilon=3", "rounds.count=2", *adapt)
    terms = mechanism_for(asked.privacy, asked.train, size=100, most_charges=2, target=3.0)
    charge = {"rate": terms.rate, "noise_multiplier": terms.noise_multiplier, "steps": terms.steps}

    def after(count: int) -> float:
        return epsilon([event_of({**charge, "steps": count * terms.steps})], delta=1e-5)

    def told(number: int, task: str, count: int, **changes) -> Receipt:
        return receipt(number, digest=f"{changes} {number}", task=task, epsilon_run=after(count), **charge, **changes)

    sent = [Sent("red", task) for task in ("d1", "d2", "d1", "d2")]
    before = [Confirmed("red", task, told(7 + n, task, n), "key") for n, task in ((1, "d1"), (2, "d2"))]
    now = [
        Confirmed("red", task, told(sequence + n, task, n, dataset=dataset, run=key), key)
        for n, task in ((1, "d1"), (2, "d2"))
    ]
    whole = spent_by_site(asked, sent, [*before, *now])["red"]
    part = spent_by_site(asked, sent, [*before, now[0]])["red"]
    assert (whole.unconfirmed, part.unconfirmed) == (0, 1)
    assert part.epsilon == whole.epsilon == pytest.approx(6.0 if adapt else after(4))
    assert whole.epsilon > 3.5 > 3.0 >= spent_by_site(asked, sent[:2], [*before, *before])["red"].epsilon


def test_what_was_sent_and_never_confirmed_is_in_what_a_new_ledger_must_state(recipe, tmp_path):
    """Both in one composition where receipts explain the newest one's epsilon; otherwise added, with their deltas."""
    settings = ServerSettings(name="net", address="x:1", folder=tmp_path)
    asked, one = recipe("privacy.noise_multiplier=2", "rounds.count=3"), tmp_path / "runs" / "one"
    (one).mkdir(parents=True)
    (one / "recipe.yaml").write_text(yaml_text(recorded(asked)))

    def after(count: int) -> float:
        return epsilon([Event(rate=0.1, noise_multiplier=2.0, steps=4 * count)], delta=1e-5)

    def said(lifetime: float) -> None:
        values = {"noise_multiplier": 2.0, "steps": 4, "epsilon_run": after(2), "epsilon_lifetime": lifetime}
        for name in ("rounds.jsonl", "sent.jsonl"):
            (one / name).unlink(missing_ok=True)
        sent = SentTasks(one)
        sent.post(1, [(7, "red", "d1")])
        first = receipt(2, **{**values, "epsilon_run": after(1), "epsilon_lifetime": after(1)})
        sent.confirm(1, 7, "d1", first, "key")
        sent.post(2, [(7, "red", "d2")])
        sent.confirm(2, 7, "d2", receipt(5, **values), "key")
        sent.post(3, [(7, "red", "d3")])
        (one / "rounds.jsonl").write_text(json.dumps({"round": 2, "clients": [record(5, **values)]}) + "\n")

    said(after(2))
    lost = lost_ledger(settings, "red", None)
    assert (lost.epsilon, lost.delta) == (pytest.approx(after(3)), 1e-5)
    assert [(item.tasks, item.epsilon) for item in lost.unconfirmed] == [(1, pytest.approx(after(1)))]
    said(after(3))  # one more charge: a task that died after it and was sent again, or another coordinator's; not d3
    assert lost_ledger(settings, "red", None).epsilon == pytest.approx(after(4))
    said(after(2) + 0.5)  # it was charged elsewhere too: nobody here knows what for
    lost = lost_ledger(settings, "red", None)
    assert (lost.epsilon, lost.delta) == (pytest.approx(after(2) + 0.5 + after(1)), 2e-5)


def test_a_task_that_was_sent_twice_may_have_been_charged_twice(recipe):
    """By two processes of Flower's own executor: the second is charged, and gives the first's receipt."""
    asked = recipe("privacy.noise_multiplier=2", "rounds.count=3")

    def after(count: int) -> float:
        return epsilon([Event(rate=0.1, noise_multiplier=2.0, steps=4 * count)], delta=1e-5)

    values = {"noise_multiplier": 2.0, "steps": 4}
    first = receipt(1, **values, epsilon_run=after(1), epsilon_lifetime=after(1))
    later = receipt(3, **values, epsilon_run=after(3), epsilon_lifetime=after(3))
    back = Confirmed("red", "d1", first, "key")
    once, twice = (spent_by_site(asked, [Sent("red", "d1")] * count, [back])["red"] for count in (1, 2))
    assert (once.epsilon, once.unconfirmed) == (pytest.approx(after(1)), 0)
    assert (twice.epsilon, twice.unconfirmed) == (pytest.approx(after(2)), 1)
    sent = [Sent("red", "d1"), Sent("red", "d1"), Sent("red", "d2")]
    covered = spent_by_site(asked, sent, [back, Confirmed("red", "d2", later, "key")])["red"]
    assert (covered.epsilon, covered.unconfirmed) == (pytest.approx(after(3)), 0)


def test_an_older_copy_that_was_put_back_forgets_nothing_that_is_held(recipe, tmp_path):
    """Its numbers have passed those that are held, and its lifetime is less than the receipts together."""
    settings = ServerSettings(name="net", address="x:1", folder=tmp_path)
    one = tmp_path / "runs" / "one"
    one.mkdir(parents=True)
    (one / "recipe.yaml").write_text(yaml_text(recorded(recipe("privacy.noise_multiplier=2", "rounds.count=3"))))
    values = {"noise_multiplier": 2.0, "steps": 4, "epsilon_run": 0.1, "epsilon_lifetime": 0.1}
    sent, lines = SentTasks(one), []
    for number in (1, 2, 3):
        sent.post(number, [(7, "red", f"d{number}")])
        sent.confirm(number, 7, f"d{number}", receipt(number, **values), "key")
        lines.append(json.dumps({"round": number, "clients": [record(number, **values)]}))
    (one / "rounds.jsonl").write_text("\n".join(lines) + "\n")
    held = epsilon([Event(rate=0.1, noise_multiplier=2.0, steps=12)], delta=1e-5)
    assert lost_ledger(settings, "red", None).epsilon == pytest.approx(held)


def empty_red(before: Path, now: Path) -> None:
    """All sites as they were after a run, but red, whose disk is new."""
    shutil.copytree(before / "sites", now / "sites")
    shutil.rmtree(now / "sites" / "red")


def test_which_ledger_was_lost_is_asked_where_there_are_several(tmp_path):
    settings = ServerSettings(name="net", address="x:1", folder=tmp_path)
    (tmp_path / "runs" / "one").mkdir(parents=True)
    found = [{**record(4), "client": "red", "node": 7}, {**record(9, dataset="scans"), "client": "red", "node": 7}]
    line = json.dumps({"round": 1, "clients": found})
    (tmp_path / "runs" / "one" / "rounds.jsonl").write_text(f"{line}\n")
    with pytest.raises(SettingsError, match="default, scans"):
        lost_ledger(settings, "red", None)
    (tmp_path / "runs" / "one" / "recipe.yaml").write_text(yaml_text(recorded(Recipe())))
    assert lost_ledger(settings, "red", "scans").receipt.sequence == 9
    with pytest.raises(SettingsError, match="no receipt of blue"):
        lost_ledger(settings, "blue", None)


def codes(folder: Path) -> list[dict[str, str | None]]:
    lines = (folder / "rounds.jsonl").read_text().splitlines()
    return [{client["client"]: client["code"] for client in json.loads(line)["clients"]} for line in lines]
