"""What a site declares of its data when it takes its grant, and what its doctor says of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from client.deployed import policy_of
from client.deployment.doctor import examine
from client.deployment.enroll import accept, ask
from client.deployment.wanted import Wanted
from client.own_rows import own_rows, require_own_name
from client.settings import load_client
from fedlora.cli import load_command
from fedlora.files import write_atomically
from fedlora.privacy.rows_key import rows_key
from server.trust.provision import approve, initialise
from tests.privacy.tasks import STATE, guard, task


@pytest.fixture
def grant(tmp_path):
    settings = initialise(tmp_path / "server", name="net", address="127.0.0.1:1")
    return approve(settings, ask(tmp_path / "site", site="a"))


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(["text,label", *lines]) + "\n")
    return path


def lines(count: int) -> list[str]:
    return [f"message {number},{'yes' if number % 3 else 'no'}" for number in range(count)]


def finding(site: Path, check: str):
    return next(found for found in examine(site / "client.yaml") if found.check == check)


def edit(path: Path, **values) -> None:
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **values}))


def test_a_site_that_takes_its_grant_with_its_data_declares_classes_and_a_size(grant, tmp_path):
    accept(tmp_path / "site", grant, train=write(tmp_path / "train.csv", lines(2500)))
    settings = load_client(tmp_path / "site" / "client.yaml")
    assert settings.data.labels == ("no", "yes")
    size, here = policy_of(settings).dataset("default").public_examples, len(own_rows(settings).train)
    assert size is not None
    assert size % 100 == 0
    assert size <= here < size + 100
    text = (tmp_path / "site" / "policy.yaml").read_text()
    assert "rounded down to two digits" in text
    assert "change it as you like" in text
    for check in ("data", "public size", "dataset"):
        assert finding(tmp_path / "site", check).grade == "good"


def test_the_doctor_lists_the_first_malformed_rows_with_their_lines(grant, tmp_path):
    train = write(tmp_path / "train.csv", [*lines(200), *["one,two,three"] * 12])
    accept(tmp_path / "site", grant, train=train)
    found = finding(tmp_path / "site", "data")
    assert found.grade == "doubtful"
    assert f"{train}:202: more cells than columns" in found.said
    assert (f"{train}:211: " in found.said, f"{train}:212: " in found.said) == (True, False)
    assert "leaves them out" in found.remedy


def test_the_doctor_says_the_classes_with_their_shares_and_those_that_are_written_in_two_ways(grant, tmp_path):
    train = write(tmp_path / "train.csv", lines(300))
    accept(tmp_path / "site", grant, train=train)
    found = finding(tmp_path / "site", "classes")
    assert (found.grade, found.said) == ("good", "yes 200 (67 %), no 100 (33 %)")
    edit(tmp_path / "site" / "client.yaml", data={"train": str(train)})
    write(train, [*lines(300), "shout,Yes"])
    found = finding(tmp_path / "site", "classes")
    assert (found.grade, "differ only in case or spaces: 'yes' and 'Yes'" in found.said) == ("doubtful", True)
    edit(tmp_path / "site" / "client.yaml", data={"train": str(train), "labels": ["no", "yes", "perhaps"]})
    assert "declared, and in no row: perhaps" in finding(tmp_path / "site", "classes").said


def test_the_doctor_says_how_long_texts_are_by_a_models_tokenizer(grant, tmp_path, tiny_model):
    accept(tmp_path / "site", grant, train=write(tmp_path / "train.csv", [*lines(50), "the flight " * 30 + ",yes"]))
    assert "the longest has 330 characters" in finding(tmp_path / "site", "texts").said
    found = examine(tmp_path / "site" / "client.yaml", wanted=Wanted(tiny_model, max_tokens=16))
    said = next(one.said for one in found if one.check == "texts")
    assert "the longest has 62 tokens, 50/90/95/99 % have at most " in said
    assert said.endswith("1 of 51 (2 %) are cut at model.max_tokens=16")


def test_who_takes_a_grant_is_told_which_rows_are_malformed(grant, tmp_path):
    train = write(tmp_path / "train.csv", [*lines(200), 'a 5" pipe,yes'])
    write_atomically(tmp_path / "grant.json", grant.model_dump_json().encode())
    words = ["accept", str(tmp_path / "site"), str(tmp_path / "grant.json"), "--train", str(train), "--yes"]
    done = CliRunner().invoke(load_command("client"), words)
    assert done.exit_code == 0, done.output
    assert f"{train}:202: a quote inside the cell of column 'text'" in done.output.replace("\n", "")


def test_the_declared_size_is_what_a_receipt_is_made_of_whatever_comes_or_goes(grant, tmp_path):
    train = write(tmp_path / "train.csv", lines(2500))
    accept(tmp_path / "site", grant, train=train)
    settings = load_client(tmp_path / "site" / "client.yaml")
    rates = set()
    for count in (2500, 2501, 2100):
        write(train, lines(count))
        site = guard(tmp_path / str(count), policy_of(settings), dataset="default")
        asked = task(coordinator="net")
        rates.add(site.authorise(asked, STATE, examples=len(own_rows(settings).train)).mechanism.rate)
    assert len(rates) == 1


@pytest.mark.parametrize("content", [None, "words,label\na,b\n", ""])
def test_a_site_whose_data_cannot_be_read_yet_declares_nothing_and_is_told_how(grant, tmp_path, content):
    if content is not None:
        (tmp_path / "train.csv").write_text(content)
    accept(tmp_path / "site", grant, train=tmp_path / "train.csv")
    settings = load_client(tmp_path / "site" / "client.yaml")
    assert settings.data.labels is None
    assert policy_of(settings).dataset("default").public_examples is None
    assert "declare how many they are" in (tmp_path / "site" / "policy.yaml").read_text()
    write(tmp_path / "train.csv", lines(2500))
    assert "labels: [no, yes]" in finding(tmp_path / "site", "data").remedy
    found = finding(tmp_path / "site", "public size")
    assert found.grade == "doubtful"
    assert "datasets: {default: {public_examples: 2" in found.remedy


def test_the_doctor_says_when_more_is_declared_than_there_is(grant, tmp_path):
    accept(tmp_path / "site", grant, train=write(tmp_path / "train.csv", lines(2500)))
    edit(tmp_path / "site" / "policy.yaml", datasets={"default": {"public_examples": 9000}})
    found = finding(tmp_path / "site", "public size")
    assert (found.grade, "9000 training examples are declared" in found.said) == ("doubtful", True)


def test_the_doctor_counts_what_is_left_out_and_says_when_private_tasks_are_refused(grant, tmp_path):
    bad = ["message 1,maybe", ",yes", "message 2,yes", "twice,no", "twice,no"]
    accept(tmp_path / "site", grant, train=write(tmp_path / "train.csv", lines(2500) + bad))
    edit(tmp_path / "site" / "client.yaml", data={"train": str(tmp_path / "train.csv"), "labels": ["no", "yes"]})
    found = finding(tmp_path / "site", "data")
    assert found.grade == "good"
    for said in ("2 repeated", "1 with a class that is not declared", "1 with nothing in column 'text'"):
        assert said in found.said
    write(tmp_path / "train.csv", lines(200) + [",no"] * 100)
    found = finding(tmp_path / "site", "data")
    assert found.grade == "bad"
    assert "too-many-unusable: 33% of the rows" in found.remedy


def test_the_doctor_finds_rows_that_were_charged_under_another_name_and_the_act_mends_it(grant, tmp_path):
    folder = tmp_path / "site"
    accept(folder, grant, train=write(tmp_path / "train.csv", lines(300)))
    settings = load_client(folder / "client.yaml")
    require_own_name(settings, own_rows(settings))
    guard(settings.state, dataset="default").authorise(task(), STATE, examples=270)
    edit(folder / "client.yaml", data={"train": str(tmp_path / "train.csv"), "dataset": "renamed"})
    found = finding(folder, "dataset")
    assert found.grade == "bad"
    assert f"fedlora ledger carry {settings.state} --dataset renamed --from default" in found.said
    words = ["carry", str(folder), "--dataset", "renamed", "--from", "default", "--yes"]
    assert CliRunner().invoke(load_command("ledger"), words).exit_code == 0
    assert finding(folder, "dataset").grade == "good"
    ran = CliRunner().invoke(load_command("ledger"), ["show", str(folder), "--json"])
    assert {row["dataset"] for row in json.loads(ran.output)["spent"]} == {"default", "renamed"}


def test_the_doctor_makes_no_key(grant, tmp_path):
    accept(tmp_path / "site", grant, train=write(tmp_path / "train.csv", lines(300)))
    key = rows_key(tmp_path / "site" / "state")
    shutil.rmtree(tmp_path / "site" / "state")
    assert finding(tmp_path / "site", "data").grade == "good"
    assert not (tmp_path / "site" / "state").exists()
    assert rows_key(tmp_path / "site" / "state") != key
