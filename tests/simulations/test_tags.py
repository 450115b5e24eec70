"""Tags through whole runs: every strategy, under privacy, from files of CoNLL's form to a model that others load."""

import json
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForTokenClassification, PeftModelForTokenClassification
from safetensors.torch import load_file
from transformers import AutoModelForTokenClassification, pipeline

from fedlora.data.form import TOKENS_AND_TAGS, Columns
from fedlora.data.rows import read_rows
from fedlora.settings import SettingsError
from fedlora.tasks.base import IGNORED
from simulations.attacks import reversed_classes
from simulations.data.site_files import write_site_files
from simulations.data.summary import lines
from simulations.run import prepare, simulate
from strategies.registry import STRATEGIES
from tests.exported import distance, names_of_its_readme
from tests.federations import PRIVATE, metrics_of_two_rounds, named, save_tiny_model
from tests.fedlora.exports.command import export
from tests.taggings import LABELS, save_tagged, tagged_recipe


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("tags")
    return save_tiny_model(folder / "model"), save_tagged(folder / "sites")


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_trains_it(place, tmp_path, name):
    assert metrics_of_two_rounds(tagged_recipe(*place, *named(name)), tmp_path / "run") == {
        "f1",
        "precision",
        "recall",
        "token_accuracy",
    }


def test_it_learns_to_find_entities_and_says_so_by_f1(place, tmp_path):
    recipe = tagged_recipe(*place, "rounds.count=6", "train.steps=6", "rounds.evaluate_every=6")
    summary = simulate(prepare(recipe), tmp_path / "run", watch=lambda event: None)
    assert summary["metric"] == "f1"
    assert summary["score"] == summary["f1"] > 0.4
    assert summary["standing"] == "better than at first"
    assert summary["verdict"][0].startswith("F1 ")


def test_it_trains_under_privacy(place, tmp_path):
    recipe = tagged_recipe(*place, *PRIVATE, "data.labels=[B-TOWN, I-TOWN, O]")
    summary = simulate(prepare(recipe), tmp_path / "run", watch=lambda event: None)
    assert 0 < summary["loss"] < 20
    adapter = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert any(tensor.any() for name, tensor in adapter.items() if "lora_B" in name)


def test_the_data_are_described_with_their_tags(place):
    simulation = prepare(tagged_recipe(*place))
    task = simulation.data.held_out.task
    found = simulation.data.found
    said = "\n".join(lines(found, simulation.data.sizes, held_out=20, batch_size=4, metric=task.compare_by))
    assert simulation.data.labels == LABELS
    assert found.classes["B-TOWN"] == 96
    assert "B-TOWN 96 (" in said
    assert "the test set is small: 20 texts" in said


def test_a_deployment_s_files_hold_the_same_rows(place, tmp_path):
    recipe = tagged_recipe(*place)
    names = write_site_files(recipe, tmp_path / "sites")
    files = [str(tmp_path / "sites" / name / "train.csv") for name in names]
    rows = [row for file in files for row in read_rows(file, Columns(TOKENS_AND_TAGS))]
    assert len(rows) == sum(train for train, _ in prepare(recipe).data.sizes.values())


@pytest.mark.parametrize("partition", ["dirichlet", "label"])
def test_rows_are_not_dealt_by_their_class_where_every_word_has_one(place, partition):
    with pytest.raises(SettingsError, match=rf"partition={partition} deals rows by their class, and these have none"):
        prepare(tagged_recipe(*place, f"data.partition={partition}", "data.clients=3"))


def test_reversed_classes_leave_what_has_no_loss_as_it_is(place):
    train = prepare(tagged_recipe(*place)).data.clients["red"].train
    lie = reversed_classes(train, len(LABELS))
    for before, after in zip(train.items, lie.items, strict=True):
        words = before["labels"] != IGNORED
        assert torch.equal(after["labels"] != IGNORED, words)
        assert torch.equal(after["labels"][words], len(LABELS) - 1 - before["labels"][words])


@pytest.fixture(scope="module")
def trained(place, tmp_path_factory):
    """A run, the logits of the model that it serves, and what they are of."""
    folder = tmp_path_factory.mktemp("trained")
    simulation = prepare(tagged_recipe(*place))
    simulate(simulation, folder / "run", watch=lambda event: None)
    return folder / "run", place[0]


IDS = torch.tensor([[2, 11, 5, 8, 12, 3]])


@torch.no_grad()
def test_its_adapter_loads_by_the_readme_s_lines_and_by_peft_s_own_class_for_the_task(trained, tmp_path, monkeypatch):
    run, base = trained
    names, printed = names_of_its_readme(run / "adapter", base=base, text="the late flight")
    assert printed.startswith("[('the', '")
    assert len(names["tags"]) == 3
    logits = names["model"](input_ids=IDS).logits
    assert logits.shape[-1] == len(LABELS)
    export(run, "--kind", "peft", "--out", tmp_path / "peft")
    assert json.loads((tmp_path / "peft" / "adapter_config.json").read_text())["task_type"] == "TOKEN_CLS"
    monkeypatch.chdir(Path(base).parent)
    found = AutoPeftModelForTokenClassification.from_pretrained(str(tmp_path / "peft"), num_labels=len(LABELS)).eval()
    assert isinstance(found, PeftModelForTokenClassification)
    assert distance(found(input_ids=IDS).logits, logits) <= 1e-6


@torch.no_grad()
def test_merged_it_is_a_plain_model_that_knows_its_tags(trained, tmp_path):
    run, base = trained
    export(run, "--kind", "merged", "--out", tmp_path / "merged", "--base", base)
    found = AutoModelForTokenClassification.from_pretrained(tmp_path / "merged").eval()
    names, _ = names_of_its_readme(run / "adapter", base=base)
    assert distance(found(input_ids=IDS).logits, names["model"](input_ids=IDS).logits) <= 1e-5
    assert tuple(found.config.id2label.values()) == LABELS
    tagger = pipeline("token-classification", model=str(tmp_path / "merged"))
    assert {one["entity"] for one in tagger("the late flight")} <= set(LABELS)
