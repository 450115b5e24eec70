"""The card at the head of README.md: what the hub's own reader makes of it, whose terms it has, what it never says."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index

from fedlora.data.packaged import PACKAGED as SOURCES
from fedlora.exports.about import About
from fedlora.exports.card import card, credits_said, licence_said, model_name
from fedlora.exports.licences import BASES, DATA, known_terms
from fedlora.exports.made import Made, Protected
from fedlora.exports.source import source_of
from fedlora.models.named import NamedBase
from fedlora.models.packaged import PACKAGED
from fedlora.protocol.task import Evaluation
from fedlora.settings import SettingsError
from fedlora.tasks.registry import TASKS
from tests.federations import CLIENTS, run, tiny_recipe
from tests.fedlora.exports.command import export
from tests.fedlora.exports.language_model import save_base, trained

MADE = Made(
    name="wards", strategy="fedsvd", rounds=8, clients="5-9", bytes_up=10, bytes_down=20,
    evaluation=Evaluation(loss=0.5, metrics={"accuracy": 0.8}, examples=100),
)  # fmt: skip


def about(base: str = "google-bert/bert-base-uncased", task: str = "sequence-classification", **more: object) -> About:
    return About(task, ("a", "b"), 16, NamedBase(base, ""), architecture={}, made=MADE, **more)


def read(text: str) -> ModelCard:
    """By the hub's own library, which raises for a head that it does not take."""
    return ModelCard(text)


def fields(found: About) -> dict:
    return yaml.safe_load(card(found, relation="adapter", library="peft").split("---\n")[1])


@pytest.fixture(scope="module")
def private_run(tmp_path_factory, tiny_model, messages) -> Path:
    folder = tmp_path_factory.mktemp("private") / "run"
    privacy = ("privacy.epsilon=8", "privacy.delta=1e-3", "adapter.init=orthonormal", "rounds.count=2")
    run(tiny_recipe(tiny_model, messages, *privacy), folder)
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_the_hub_s_library_reads_every_task_s_card_with_the_run_s_own_figures(task):
    found = read(card(about(task=task), relation="adapter", library="peft"))
    assert found.data.base_model == "google-bert/bert-base-uncased"
    assert (found.data.library_name, found.data.license, found.data.metrics) == ("peft", "apache-2.0", ["accuracy"])
    assert {result.metric_type: result.metric_value for result in found.data.eval_results} == {
        "loss": 0.5, "accuracy": 0.8,
    }  # fmt: skip
    assert found.data.model_name == "wards"
    again = eval_results_to_model_index("wards", found.data.eval_results)
    assert again == fields(about(task=task))["model-index"]


def test_a_private_run_s_card_says_what_its_epsilon_is_of_and_what_it_does_not_cover(private_run):
    summary = json.loads((private_run / "summary.json").read_text())
    text = (private_run / "adapter" / "README.md").read_text()
    said = read(text).data.to_dict()
    (guarantee,) = said["privacy"]["guarantees"]
    assert summary["epsilon_max"] <= guarantee["epsilon"] < summary["epsilon_max"] + 2e-3
    assert (guarantee["unit"], guarantee["adjacency"], guarantee["delta"]) == (
        "one row of a site's data", summary["adjacency"], summary["delta"],
    )  # fmt: skip
    assert said["privacy"]["not_covered"] == summary["leaks"]
    assert said["federated"] == {
        "strategy": "fedsvd", "rounds": 2, "clients": "2-4", "bytes_up": summary["bytes_up"],
        "bytes_down": summary["bytes_down"],
    }  # fmt: skip
    assert "differential-privacy" in said["tags"]
    values = {one["type"]: one["value"] for one in said["model-index"][0]["results"][0]["metrics"]}
    assert values == {"loss": summary["loss"], "accuracy": summary["accuracy"]}


def test_no_site_and_no_folder_of_this_machine_is_in_it_and_nothing_unknown_is_claimed(private_run, tiny_model):
    text = (private_run / "adapter" / "README.md").read_text()
    head = text.split("---\n")[1]
    assert not set(re.findall(r"\w+", head)) & set(CLIENTS)
    assert str(private_run) not in head
    assert str(Path(tiny_model).parent) not in head
    said = yaml.safe_load(head)
    assert not {"base_model", "license", "language", "datasets"} & said.keys()
    assert said["model-index"][0]["results"][0]["dataset"]["type"] == "private"
    assert "state it with `fedlora export --license`" in text


def test_an_export_keeps_the_run_s_account_and_a_person_states_the_licence(private_run, tmp_path):
    said = export(private_run, "--out", tmp_path / "bare")
    assert "Nobody has said under which licence the base is: state it with --license" in said
    said = export(private_run, "--out", tmp_path / "out", "--license", "apache-2.0")
    assert "Nobody" not in said
    before, after = (
        yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
        for folder in (private_run / "adapter", tmp_path / "out")
    )
    assert after == {**before, "license": "apache-2.0"}
    assert source_of(tmp_path / "out").about.license == "apache-2.0"
    export(private_run, "--kind", "merged", "--out", tmp_path / "merged")
    merged = read((tmp_path / "merged" / "README.md").read_text()).data.to_dict()
    assert (merged["library_name"], merged["federated"]) == ("transformers", before["federated"])


def test_a_run_without_privacy_says_so(tiny_model, messages, tmp_path):
    run(tiny_recipe(tiny_model, messages, "rounds.count=1"), tmp_path / "run")
    said = read((tmp_path / "run" / "adapter" / "README.md").read_text()).data.to_dict()
    assert said["privacy"] == {"differential_privacy": False}


def test_noise_from_a_seed_is_no_guarantee_and_no_bound_is_no_number():
    tested = Protected(unit="u", adjacency="a", epsilon=1.00001, delta=1e-5, is_guarantee=False)
    both = (tested, tested.model_copy(update={"epsilon": None}))
    unbounded = replace(about(), made=MADE.model_copy(update={"protected": both}))
    one, other = fields(unbounded)["privacy"]["guarantees"]
    assert (one["epsilon"], one["is_guarantee"], other["epsilon"]) == (1.001, False, None)


@pytest.mark.parametrize(
    ("base", "license", "prefix", "notice"),
    [
        (
            "meta-llama/Llama-3.2-1B-Instruct",
            "llama3.2",
            "Llama",
            "Llama 3.2 is licensed under the Llama 3.2 Community",
        ),
        ("meta-llama/Meta-Llama-3.1-8B", "llama3.1", "Llama", "Llama 3.1 is licensed"),
        ("meta-llama/Meta-Llama-3-8B", "llama3", "Llama 3", "Meta Llama 3 is licensed"),
        ("meta-llama/Llama-2-7b-hf", "llama2", None, "Llama 2 is licensed"),
        ("google/gemma-3-270m", "gemma", None, "Gemma is provided under and subject to the Gemma Terms of Use"),
        ("Qwen/Qwen2.5-0.5B", "apache-2.0", None, None),
        ("Qwen/Qwen2.5-3B", "other", None, None),
        ("microsoft/phi-2", "mit", None, None),
        ("demo", "apache-2.0", None, None),
        ("smollm2", "apache-2.0", None, None),
        ("vits14", "mit", None, None),
    ],
)
def test_terms_of_bases_go_with_what_is_made_of_them(tmp_path, base, license, prefix, notice):
    found = about(base)
    assert fields(found)["license"] == license
    assert model_name(found, MADE) == (f"{prefix}-wards" if prefix else "wards")
    assert (prefix is None) or f"must begin with `{prefix}`" in licence_said(found)
    found.write_notice(tmp_path)
    written = (tmp_path / "NOTICE").read_text() if (tmp_path / "NOTICE").exists() else None
    assert (written or "").startswith(notice or "")
    assert (written is None) == (notice is None)


@pytest.mark.parametrize("base", ["someone/their-model", "./models", "google/gemma-9-future"])
def test_of_a_base_that_nobody_knows_no_licence_is_claimed(base):
    assert known_terms(base) is None
    assert "license" not in fields(about(base))


def test_a_licence_at_odds_with_the_base_s_terms_is_refused_and_never_taken(tmp_path):
    base = save_base(tmp_path / "base")
    folder = trained(base, "fedit").export(tmp_path / "adapter")
    kept = json.loads((folder / "fedlora.json").read_text())
    kept["base"]["id"] = "meta-llama/Llama-3.2-1B"
    (folder / "fedlora.json").write_text(json.dumps(kept))
    with pytest.raises(
        SettingsError, match=r"--license mit: what is made of meta-llama/Llama-3\.2-1B is under its own te"
    ):
        export(folder, "--license", "mit", "--out", tmp_path / "out")
    assert fields(about("meta-llama/Llama-3.2-1B", license="mit"))["license"] == "llama3.2"
    export(folder, "--out", tmp_path / "out")
    assert (tmp_path / "out" / "NOTICE").read_text().startswith("Llama 3.2 is licensed")
    export(folder, "--kind", "gguf", "--base", base, "--out", tmp_path / "gguf")
    assert (tmp_path / "gguf" / "NOTICE").exists()


def test_a_local_base_is_under_the_licence_that_its_own_card_names(tmp_path):
    base = save_base(tmp_path / "base")
    (Path(base) / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    found = source_of(trained(base, "fedit").export(tmp_path / "adapter")).about
    assert (found.license, fields(found)["license"]) == ("mit", "mit")


def test_packaged_data_are_credited_and_everybody_s_own_are_not_named():
    found = replace(about(), made=MADE.model_copy(update={"source": "faq"}))
    said = fields(found)
    assert (said["datasets"], said["language"]) == (["DecDEPO/swedish-construction-faq"], "en")
    assert "Zaragoza AB, CC BY 4.0" in credits_said(found)
    assert credits_said(about()) == ""


def test_every_packaged_base_and_source_is_in_the_tables():
    assert [name for name in PACKAGED if known_terms(name) is None] == []
    assert SOURCES.keys() <= DATA.keys()
    assert all(like == like.lower() for like in BASES)
