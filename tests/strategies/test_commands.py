"""`fedlora strategies`, `fedlora probe` and `fedlora wire`, as a person types them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from fedlora.adapters import inject, read
from fedlora.cli import load_command
from fedlora.config import AdapterSettings
from fedlora.plain_yaml import yaml_text
from fedlora.settings import SettingsError
from fedlora.updates import Factor
from simulations.planned_bytes import planned_bytes
from strategies.registry import STRATEGIES, build
from tests.federations import run
from tests.strategies.examples import kind_of

SIX_AIRLINES = str(Path(__file__).resolve().parents[2] / "simulations/recipes/six-airlines.yaml")


def invoke(*words: str) -> str:
    result = CliRunner().invoke(load_command(words[0]), list(words[1:]))
    assert result.exit_code == 0, result.output
    return result.output


def test_every_strategy_is_described(monkeypatch):
    rows = {row["strategy"]: row for row in json.loads(invoke("strategies", "--json"))}
    assert rows.keys() == STRATEGIES.keys()
    assert rows["fedit"]["up"] == rows["fedit"]["down"] == 16 * (4096 + 4096)
    assert rows["ffa"]["up"] == 16 * 4096
    assert rows["fedsb"]["up"] == 16 * 16
    assert rows["fedex"]["down"] == 10 * rows["fedex"]["up"]
    monkeypatch.setenv("COLUMNS", "200")
    assert "fedsvd" in invoke("strategies")
    monkeypatch.setenv("COLUMNS", "80")
    narrow = invoke("strategies").splitlines()
    assert max(map(len, narrow)) <= 80
    assert any(line.split()[:5] == ["fedex", "A,", "B", "131,072", "1,310,720"] for line in narrow)


def test_dense_is_sent_once_the_factors_would_be_longer():
    rows = {row["strategy"]: row for row in json.loads(invoke("strategies", "--json", "--clients", "1000"))}
    assert rows["fedex"]["down"] == 16 * (4096 + 4096) + 4096 * 4096


@pytest.mark.parametrize("kind", ["tiny_bert", "tiny_gpt2"])
def test_a_models_own_matrices_are_counted_without_its_weights(request, tmp_path, kind):
    """What is planned is what `inject` adapts: two of each layer, or one fused, whatever the layer stores."""
    model = request.getfixturevalue(kind)
    model.config.save_pretrained(tmp_path)
    rows = {
        row["strategy"]: row
        for row in json.loads(invoke("strategies", "--json", "--model", str(tmp_path), "--r", "2", "--clients", "3"))
    }
    inject(model, AdapterSettings(r=2))
    factors = read(model).tensors([Factor.A, Factor.B])
    numbers = {f: sum(t.numel() for name, t in factors.items() if name.endswith(f".{f}")) for f in "AB"}
    assert rows["fedit"]["up"] == sum(numbers.values())
    assert rows["ffa"]["up"] == numbers["B"]
    assert rows["fedsa"]["up"] == numbers["A"]
    assert rows["fedsb"]["up"] == 4 * len(factors) / 2


def test_a_row_says_what_a_person_choosing_asks():
    rows = {row["strategy"]: row for row in json.loads(invoke("strategies", "--json"))}
    for name, row in rows.items():
        traits = build(name, {}).traits
        assert row["exact"] == traits.exact
        assert row["unequal ranks"] == traits.unequal_ranks
        assert row["secure aggregation"] == traits.linear_uploads
        assert row["sample-level DP"] == traits.example_level_dp
    assert rows["rolora"]["trains"] == "B / A"
    assert rows["fedsa"]["trains"] == "A; keeps B, head"


def test_a_model_that_is_not_there_is_refused():
    result = CliRunner().invoke(load_command("strategies"), ["--model", "/nowhere"])
    assert isinstance(result.exception, SettingsError)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            ("strategy.name=fedit",),
            r"fedit averages lora_A and lora_B, which is not the same as averaging ΔW \(measured: wrong by",
        ),
        (("strategy.name=fedsa",), r"fedsa has no global model"),
        (("strategy.name=ffa",), None),
        (("strategy.name=fedex",), None),
        (("strategy.name=fedsb", "adapter.kind=lora_xs"), None),
    ],
)
def test_the_recipe_check_warns_of_averaging_that_is_not_exact(overrides, says):
    words = [word for override in overrides for word in ("--set", override)]
    result = CliRunner().invoke(load_command("config"), ["check", SIX_AIRLINES, *words])
    assert result.exit_code == 0, result.output
    if says is None:
        assert result.stderr == ""
    else:
        assert re.search(says, result.stderr)
    assert yaml.safe_load(result.stdout)["strategy"]["name"] == overrides[0].partition("=")[2]


def test_the_recipe_check_refuses_what_a_run_would_refuse():
    result = CliRunner().invoke(load_command("config"), ["check", SIX_AIRLINES, "--set", "strategy.name=fedsb"])
    assert isinstance(result.exception, SettingsError)
    assert "set adapter.kind=lora_xs" in str(result.exception)


def test_the_probe_prints_a_verdict():
    (row,) = json.loads(invoke("probe", "--adapter", "lora", "--json"))
    assert (row["exact"], sorted(row["exact_when_frozen"])) == (False, ["lora_A", "lora_B"])


IID = ("data.partition=iid", "data.clients=4")


@pytest.mark.parametrize("classes", [2, 12, 200])
@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_planned_bytes_are_those_of_a_run_to_a_hundredth(recipe, tmp_path, strategy, classes):
    """Whatever is counted in a run: task and report, a head of so many classes, residuals, factors that take turns."""
    lines = "".join(f"the {n} flight,class {n % classes}\n" for n in range(200 + 4 * classes))
    (tmp_path / "rows.csv").write_text(f"text,label\n{lines}")
    kind = kind_of(build(strategy, {}))
    own = (f"data.source={tmp_path / 'rows.csv'}", f"strategy.name={strategy}", f"adapter.kind={kind}")
    settings = recipe(*own, *IID, "rounds.count=4", "train.steps=1")
    planned = planned_bytes(settings, clients=4)
    summary = run(settings, tmp_path / "run")
    for way in ("up", "down"):
        assert 4 * planned[f"bytes_{way}_run"] == pytest.approx(summary[f"bytes_{way}"], rel=0.01)


@pytest.mark.parametrize("codec", [("wire.codec=int4",), ("wire.codec=sign", "wire.density=0.5")])
def test_packed_updates_are_planned_as_they_are_sent(recipe, tmp_path, codec):
    settings = recipe("strategy.name=ffa", *IID, "rounds.count=2", *codec)
    planned = planned_bytes(settings, clients=4)
    assert 4 * planned["bytes_up_run"] == pytest.approx(run(settings, tmp_path / "run")["bytes_up"], rel=0.02)


def test_a_private_report_is_planned_with_its_receipt(recipe, tmp_path):
    settings = recipe("strategy.name=ffa", *IID, "rounds.count=2", "privacy.epsilon=8", "privacy.delta=1e-3")
    planned = planned_bytes(settings, clients=4)
    assert 4 * planned["bytes_up_run"] == pytest.approx(run(settings, tmp_path / "run")["bytes_up"], rel=0.01)


def test_a_plan_without_classes_says_how_to_give_them(recipe, tmp_path):
    (tmp_path / "r.yaml").write_text(yaml_text(recipe("data.source=nowhere.csv").model_dump(mode="json")))
    result = CliRunner().invoke(load_command("wire"), ["plan", str(tmp_path / "r.yaml"), "--json"])
    assert re.search(r"(?s)no such file.*set data\.labels, or give --classes", str(result.exception))
    few, many = (
        json.loads(invoke("wire", "plan", str(tmp_path / "r.yaml"), "--json", "--classes", str(count)))
        for count in (2, 200)
    )
    assert many["bytes_up"] > 3 * few["bytes_up"]


def test_a_plan_may_name_model_strategy_and_codec_alone(recipe):
    named = ("--model", recipe().model.id, "--strategy", "ffa", "--codec", "sign", "--density", "0.5")
    planned = json.loads(invoke("wire", "plan", *named, "--set", "model.max_tokens=16", "--json"))
    assert (planned["strategy"], planned["codec"], planned["density"]) == ("ffa", "sign", 0.5)


def test_planned_changes_are_those_of_a_run(recipe, tmp_path):
    both = ("wire.codec=int4", "wire.density=0.25", "wire.download=changes", "wire.download_codec=int4")
    settings = recipe("adapter.r=8", "rounds.count=3", *IID, *both, "wire.download_density=0.25")
    planned = planned_bytes(settings, clients=4)
    run(settings, tmp_path / "run")
    last = json.loads((tmp_path / "run/rounds.jsonl").read_text().splitlines()[2])
    assert 4 * planned["bytes_up"] == pytest.approx(last["bytes_up"], rel=0.02)
    assert 4 * planned["bytes_down"] == pytest.approx(last["bytes_down"], rel=0.03)
    assert planned["bytes_down"] < planned["bytes_down_first"]


def test_a_message_is_inspected_without_being_trusted(tmp_path):
    from tests.wire.test_message import HEADER, encode, tensors

    path = tmp_path / "update.bin"
    path.write_bytes(encode(tensors(), HEADER, codec="int4", density=0.25))
    shown = invoke("wire", "inspect", str(path))
    assert all(word in shown for word in ("int4", "run-1", "ffa", "signature"))


def test_a_download_of_changes_is_inspected_link_by_link(tmp_path):
    from fedlora.wire.changes import next_links, packed_changes
    from tests.wire.test_message import adapter

    held = adapter()
    links, asked = [], {"run": "run-1", "strategy": "fedit", "codec": "int8", "density": 0.5}
    for number in (4, 5):
        moved = held.with_tensors({name: 2 * tensor for name, tensor in held.tensors().items()})
        step = next_links(held, moved, round_number=number, **asked)
        links, held = [*links, *step.links], step.held
    path = tmp_path / "changes.bin"
    path.write_bytes(packed_changes(links, held))
    shown = invoke("wire", "inspect", str(path))
    assert len(re.findall(r"kind\W+(?:change|turn)", shown)) == len(links) == 4  # a doubled A is a turn
    assert f"{len(links)} linked messages in this order: {path.stat().st_size} bytes" in shown
