"""The same rows under another name of a site: found, refused, and used only when what was spent is carried."""

from __future__ import annotations

import json
import stat

import numpy as np
import pytest
from click.testing import CliRunner

import fedlora.privacy.sketch as sketch_module
from client.deployed import respond
from client.settings import ClientSettings, SiteData
from fedlora.cli import load_command
from fedlora.data.membership import key_of
from fedlora.privacy.accounting import Event, epsilon
from fedlora.privacy.carried import carry_over, spent_of, to_carry
from fedlora.privacy.ledger import LedgerFiles, inspect_ledger
from fedlora.privacy.policy import SIMULATION, DatasetPolicy, Policy
from fedlora.privacy.receipt import verified
from fedlora.privacy.refusal import Code, Refusal
from fedlora.privacy.signing import load_or_create_key
from fedlora.privacy.sketch import hashes_of, in_common, known_elsewhere, require_own_name
from fedlora.settings import SettingsError
from tests.privacy.rounds import first_task
from tests.privacy.tasks import STATE, guard, task

KEY = key_of(0)
PLAIN = {"noise_multiplier": 1.0}


def texts(first: int, last: int) -> list[str]:
    return [f"The note {number}" for number in range(first, last)]


def use(site, dataset: str, rows: list[str], *, run: str | None = None, number: int = 1) -> None:
    """One private task, as a site does it: the name, then the charge."""
    require_own_name(site, dataset, hashes_of(rows, KEY), key=KEY)
    guard(site, SIMULATION, dataset=dataset).authorise(
        task(run=run or f"run-of-{dataset}", round=number, privacy=PLAIN), STATE, examples=len(rows)
    )


def refused(site, dataset: str, rows: list[str]) -> str:
    with pytest.raises(Refusal) as caught:
        require_own_name(site, dataset, hashes_of(rows, KEY), key=KEY)
    assert caught.value.code is Code.KNOWN_DATA
    assert not (site / "privacy" / "sketches" / dataset).exists()
    return str(caught.value)


def receipt_of(site, policy: Policy, asked=None):
    granted = guard(site, policy, dataset="new").authorise(asked or task(run="run-of-new"), STATE, examples=2400)
    return verified(granted.receipt)


def carry(site, dataset: str, source: str) -> None:
    key = load_or_create_key(site / "privacy" / "key.pem")
    carry_over(site, dataset, to_carry(site, dataset, source), key=key, source=source, reason="")


def entries(site, dataset: str):
    return inspect_ledger(LedgerFiles(site, dataset)).entries


@pytest.mark.parametrize(
    "renamed",
    [
        texts(0, 300),
        texts(295, 600)[:20],  # five of twenty
        texts(290, 10_000),  # ten of many
        [text.upper() + "  " for text in texts(0, 300)],
        texts(0, 300)[::-1],
    ],
)
def test_rows_that_another_name_was_charged_for_are_refused(tmp_path, renamed):
    use(tmp_path, "old", texts(0, 300))
    said = refused(tmp_path, "new", renamed)
    assert "'old'" in said
    assert "ledger carry" in said


@pytest.mark.parametrize("other", [texts(300, 600), texts(297, 600)])
def test_other_rows_are_another_dataset_even_if_a_few_are_common(tmp_path, other):
    use(tmp_path, "old", texts(0, 300))
    use(tmp_path, "new", other)
    use(tmp_path, "old", texts(0, 300), number=2)


def test_the_same_name_may_change_and_what_it_once_had_is_remembered(tmp_path):
    use(tmp_path, "old", texts(0, 300))
    use(tmp_path, "old", texts(5000, 5300), number=2)
    refused(tmp_path, "new", texts(0, 300))
    refused(tmp_path, "new", texts(5000, 5300))


def test_a_name_that_was_never_charged_is_free_to_change(tmp_path):
    require_own_name(tmp_path, "typo", hashes_of(texts(0, 300), KEY), key=KEY)
    use(tmp_path, "right", texts(0, 300))


def test_what_cannot_be_known_is_refused(tmp_path):
    use(tmp_path, "old", texts(0, 300))
    require_own_name(tmp_path, "old", hashes_of(texts(0, 300), KEY), key=KEY)
    sketch = tmp_path / "privacy" / "sketches" / "old"
    assert stat.S_IMODE(sketch.stat().st_mode) == 0o600
    with pytest.raises(Refusal, match="there is no record of the rows"):  # another key: the hashes say nothing
        require_own_name(tmp_path, "new", hashes_of(texts(900, 990), key_of(1)), key=key_of(1))
    sketch.unlink()
    assert "there is no record of the rows" in refused(tmp_path, "new", texts(900, 990))
    use(tmp_path, "old", texts(0, 300), number=2)  # under its own name it goes on, and is noted again
    use(tmp_path, "new", texts(900, 990))


def test_datasets_from_before_there_were_sketches_go_on_side_by_side(tmp_path):
    use(tmp_path, "a", texts(0, 300))
    use(tmp_path, "b", texts(1000, 1300))
    for name in ("a", "b"):
        (tmp_path / "privacy" / "sketches" / name).unlink()
    use(tmp_path, "b", texts(1000, 1300), number=2)
    use(tmp_path, "b", texts(1000, 1300), number=3)
    refused(tmp_path, "new", texts(5000, 5300))  # nobody knows what a is
    use(tmp_path, "a", texts(0, 300), number=2)
    use(tmp_path, "new", texts(5000, 5300))
    with pytest.raises(Refusal, match="'a'"):
        use(tmp_path, "b", texts(0, 300), number=4)


def test_a_damaged_ledger_of_the_other_name_lets_nothing_pass(tmp_path):
    use(tmp_path, "old", texts(0, 300))
    carry(tmp_path, "new", "old")
    ledger = LedgerFiles(tmp_path, "old").ledger
    ledger.write_bytes(ledger.read_bytes().replace(b'"round":1', b'"round":2'))
    refused(tmp_path, "new", texts(0, 300))


def test_what_is_carried_is_composed_with_what_follows(tmp_path):
    for number in (1, 2):
        use(tmp_path, "old", texts(0, 300), number=number)
    carry(tmp_path, "new", "old")
    assert spent_of(entries(tmp_path, "new")).epsilon(delta=1e-5) == spent_of(entries(tmp_path, "old")).epsilon(
        delta=1e-5
    )
    use(tmp_path, "new", texts(0, 300), run="run-2")
    charges = [e.fields for name in ("old", "new") for e in entries(tmp_path, name) if e.kind == "charge"]
    events = [Event(rate=f["rate"], noise_multiplier=f["noise_multiplier"], steps=f["steps"]) for f in charges]
    assert len(events) == 3
    assert spent_of(entries(tmp_path, "new")).epsilon(delta=1e-5) == epsilon(events, delta=1e-5)


def test_after_a_carry_the_old_name_is_closed_until_it_counts_the_new_one_too(tmp_path):
    use(tmp_path, "old", texts(0, 300))
    carry(tmp_path, "new", "old")
    use(tmp_path, "new", texts(0, 300))
    with pytest.raises(Refusal, match="'new'"):
        use(tmp_path, "old", texts(0, 300), number=2)
    carry(tmp_path, "old", "new")
    assert [e.fields["events"][0]["steps"] for e in entries(tmp_path, "old") if e.kind == "carried"] == [2]
    use(tmp_path, "old", texts(0, 300), number=2)
    with pytest.raises(Refusal, match="'old'"):
        use(tmp_path, "new", texts(0, 300), number=2)
    carry(tmp_path, "new", "old")
    use(tmp_path, "new", texts(0, 300), number=2)
    steps = sum(event.steps for event in spent_of(entries(tmp_path, "new")).events)
    assert steps == 4 * 2  # four tasks of two steps, none of them twice


def test_a_carry_brings_along_what_the_other_carried(tmp_path):
    use(tmp_path, "first", texts(0, 300))
    carry(tmp_path, "second", "first")
    use(tmp_path, "second", texts(0, 300))
    carry(tmp_path, "third", "second")
    use(tmp_path, "third", texts(0, 300))
    assert sum(event.steps for event in spent_of(entries(tmp_path, "third")).events) == 6
    with pytest.raises(SettingsError, match="has spent nothing that third does not already count"):
        to_carry(tmp_path, "third", "second")


def test_the_lifetime_budget_and_the_receipt_count_what_was_carried(tmp_path):
    use(tmp_path, "old", texts(0, 300))
    spent = spent_of(entries(tmp_path, "old")).epsilon(delta=1e-5)
    carry(tmp_path, "new", "old")
    policy = SIMULATION.model_copy(update={"epsilon_budget": spent + 1e-6, "max_delta": 1e-5})
    with pytest.raises(Refusal) as caught:
        guard(tmp_path, policy, dataset="new").authorise(task(privacy=PLAIN), STATE, examples=300)
    assert caught.value.code is Code.BUDGET_EXHAUSTED
    receipt = receipt_of(tmp_path, SIMULATION, task(privacy=PLAIN))
    assert receipt.epsilon_lifetime > spent
    assert receipt.epsilon_lifetime > receipt.epsilon_run


def test_a_stated_epsilon_is_added_and_its_delta_too(tmp_path):
    (tmp_path / "site").mkdir()
    words = ["carry", str(tmp_path / "site"), "--dataset", "new", "--epsilon", "2.5", "--delta", "1e-6", "--yes"]
    assert ledger(*words).exception is not None  # without a reason
    ran = ledger(*words, "--reason", "disk lost in May; the coordinator's last receipt")
    assert (ran.exit_code, ran.exception) == (0, None)
    bounds = Policy(datasets={"new": DatasetPolicy(epsilon_budget=8, max_delta=1e-5)})
    alone, both = receipt_of(tmp_path / "other", bounds), receipt_of(tmp_path / "site", bounds)
    assert both.delta_lifetime == 1e-5  # 9e-6 for the charge, 1e-6 for what was stated
    charge = Event(rate=both.rate, noise_multiplier=both.noise_multiplier, steps=both.steps)
    assert both.epsilon_lifetime == 2.5 + epsilon([charge], delta=1e-5 - 1e-6) > 2.5 + alone.epsilon_lifetime
    small_delta = task(run="run-2", privacy={"epsilon": 1.0, "delta": 1e-7})
    asked = receipt_of(tmp_path / "site", bounds, small_delta)
    assert asked.delta_lifetime == 1e-7 + 1e-6


def test_a_stated_delta_that_the_budget_does_not_have_is_never_within_it(tmp_path):
    (tmp_path / "site").mkdir()
    ran = ledger("carry", str(tmp_path / "site"), "--dataset", "new", "--epsilon", "0.1", "--delta", "1e-5", "--reason",
                 "lost", "--yes")  # fmt: skip
    assert ran.exit_code == 0
    assert "max_delta" in ran.output
    with pytest.raises(Refusal) as caught:
        guard(tmp_path / "site", dataset="new").authorise(task(), STATE, examples=2400)
    assert caught.value.code is Code.BUDGET_EXHAUSTED
    wider = Policy(datasets={"new": DatasetPolicy(max_delta=2e-5)})
    assert receipt_of(tmp_path / "site", wider).epsilon_lifetime < 8


def ledger(*words: str):
    return CliRunner().invoke(load_command("ledger"), list(words))


def test_the_act_asks_at_a_terminal_and_wants_yes_in_a_script(tmp_path):
    use(tmp_path, "old", texts(0, 300))
    words = ("carry", str(tmp_path), "--dataset", "new", "--from", "old")
    assert "add --yes" in str(ledger(*words).exception)
    assert not LedgerFiles(tmp_path, "new").ledger.exists()
    ran = ledger(*words, "--yes")
    assert "new will count what old has spent" in ran.output
    assert ran.exit_code == 0
    shown = json.loads(ledger("show", str(tmp_path), "--json").output)["spent"]
    of_new = {row["run"]: row for row in shown if row["dataset"] == "new"}
    of_old = {row["run"]: row for row in shown if row["dataset"] == "old"}
    assert of_new["carried from old"]["epsilon"] == of_old["all runs together"]["epsilon"]
    assert of_new["all runs together"]["epsilon"] == of_old["all runs together"]["epsilon"]
    assert ledger("verify", str(tmp_path)).exit_code == 0
    use(tmp_path, "new", texts(0, 300))


def test_the_act_finds_the_state_of_a_deployed_site_also_when_it_is_empty(tmp_path):
    (tmp_path / "client.yaml").write_text("state: memory\n")
    ran = ledger("carry", str(tmp_path), "--dataset", "d", "--epsilon", "1", "--delta", "0", "--reason", "x", "--yes")
    assert ran.exit_code == 0
    assert LedgerFiles(tmp_path / "memory", "d").ledger.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--from", "nowhere"], "no other dataset 'nowhere' with a ledger"),
        (["--from", "new"], "no other dataset 'new'"),
        (["--epsilon", "1"], "give --from DATASET, or all of"),
        (["--epsilon", "0", "--delta", "0", "--reason", "x"], "epsilon must be above 0"),
        (["--epsilon", "nan", "--delta", "0", "--reason", "x"], "epsilon must be above 0"),
        (["--from", "old", "--epsilon", "1"], "give either --from"),
    ],
)
def test_an_act_that_says_too_little_or_too_much_is_refused(tmp_path, words, message):
    use(tmp_path, "old", texts(0, 300))
    ran = ledger("carry", str(tmp_path), "--dataset", "new", *words, "--yes")
    assert isinstance(ran.exception, SettingsError)
    assert message in str(ran.exception)


def test_large_datasets_are_sampled_and_still_found(monkeypatch):
    monkeypatch.setattr(sketch_module, "LARGEST", 512)
    whole = hashes_of(texts(0, 20_000), KEY)
    sketch = whole[:512]
    assert in_common(hashes_of(texts(30_000, 50_000), KEY), sketch) == 0
    found = in_common(hashes_of(texts(10_000, 30_000), KEY), sketch)
    assert 8_000 < found < 12_000
    assert in_common(whole, sketch) == pytest.approx(20_000, rel=0.1)
    assert np.array_equal(np.sort(whole), whole)
    shared = len(set(sketch.tolist()) & set(hashes_of(texts(10_000, 30_000), KEY).tolist()))
    assert found == round(shared * 2**64 / (int(sketch[-1]) + 1))


def test_of_a_small_dataset_common_rows_are_counted():
    ours = hashes_of(texts(0, 40), KEY)
    for rows in range(1, 11):
        assert in_common(ours, hashes_of(texts(0, rows), KEY)) == rows


def test_a_run_does_not_go_on_under_another_name(tmp_path):
    """Its ε and its rounds are in the other ledger: carried over, they are the dataset's and no longer the run's."""
    rows = texts(0, 300)
    use(tmp_path, "old", rows, run="run-1")
    key = load_or_create_key(tmp_path / "privacy" / "key.pem")
    carry_over(tmp_path, "new", to_carry(tmp_path, "new", "old"), key=key, source="old", reason="")
    with pytest.raises(
        Refusal, match=r"participation-cap-reached: run run-1 has charged these rows under another dataset name"
    ):
        use(tmp_path, "new", rows, run="run-1", number=2)
    use(tmp_path, "new", rows, run="run-2")


def test_a_site_that_renames_its_dataset_is_refused_before_anything_is_charged(tiny_model, tmp_path):
    lines = "".join(f"note {number},{'yes' if number % 2 else 'no'}\n" for number in range(100))
    (tmp_path / "train.csv").write_text("text,label\n" + lines)
    (tmp_path / "policy.yaml").write_text(f"base_models: [{tiny_model}]\n")
    asked, state = first_task(tiny_model, ("no", "yes"))

    def settings(dataset: str) -> ClientSettings:
        data = SiteData(train=tmp_path / "train.csv", dataset=dataset)
        policy = tmp_path / "policy.yaml"
        return ClientSettings(site="a", coordinator="c:1", state=tmp_path / "state", data=data, policy=policy)

    assert respond(asked, state, settings("old"))[0].outcome == "trained"
    report, blob = respond(asked, state, settings("new"))
    assert (report.outcome, report.code, blob) == ("refused", "data-known-under-another-name", None)
    assert known_elsewhere(tmp_path / "state", "old", hashes_of(["note 1"], KEY), key=KEY) is None
