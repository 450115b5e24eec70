"""Images through whole runs: every strategy, under privacy, from class folders and from what a processor makes."""

import pytest
import torch
from safetensors.torch import load_file

from fedlora.config import ModelSettings
from fedlora.data.form import IMAGE_AND_LABEL, Columns
from fedlora.data.rows import read_rows
from fedlora.models.base import load_base
from fedlora.settings import SettingsError
from simulations.data.site_files import write_site_files
from simulations.data.summary import lines
from simulations.run import prepare, simulate
from strategies.registry import STRATEGIES
from tests.federations import PRIVATE, metrics_of_two_rounds, named
from tests.pictures import CLASSES, picture_recipe, save_pictures, save_vit

FIRST_STEP = [
    "strategy.name=fedsb", "adapter.kind=lora_xs", "adapter.init=client-gradients", "adapter.first_step.batch_size=8",
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("pictures")
    return save_vit(folder / "model"), save_pictures(folder / "pictures")


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_trains_a_vision_transformer(place, tmp_path, name):
    assert metrics_of_two_rounds(picture_recipe(*place, *named(name)), tmp_path / "run") == {"accuracy"}


@pytest.mark.parametrize("strategy", ["fedit", "fedsvd"])
def test_it_trains_under_privacy_and_what_was_closed_at_first_moves(place, tmp_path, strategy):
    recipe = picture_recipe(*place, *PRIVATE, f"strategy.name={strategy}", "adapter.init=orthonormal")
    summary = simulate(prepare(recipe), tmp_path / "run", watch=lambda event: None)
    assert 0 < summary["loss"] < 20
    adapter = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert any(tensor.any() for name, tensor in adapter.items() if "lora_B" in name)


def test_it_starts_by_knowing_nothing_and_learns_light_from_dark(place, tmp_path):
    recipe = picture_recipe(*place, "rounds.count=4", "train.steps=6")
    simulation = prepare(recipe)
    assert not any(tensor.any() for tensor in simulation.loaded_model.template.dense.values())
    summary = simulate(simulation, tmp_path / "run", watch=lambda event: None)
    assert summary["standing"] == "better than guessing"


def test_the_data_are_described_as_images(place):
    simulation = prepare(picture_recipe(*place))
    judged_by = simulation.data.held_out.task.compare_by
    said = "\n".join(lines(simulation.data.found, simulation.data.sizes, held_out=10, batch_size=4, metric=judged_by))
    assert "images    each is made 16 x 16 pixels in 3 channels" in said
    assert "10 images that no client has" in said
    assert "text" not in said.replace("texts", "text").replace(f"{place[1]}", "")
    assert "token" not in said


def test_clients_are_the_folders_above_the_classes(place):
    simulation = prepare(picture_recipe(*place))
    assert simulation.data.labels == CLASSES
    assert sorted(simulation.data.clients) == ["blue", "green", "red", "white"]


def test_an_image_that_is_none_is_said_with_its_path_and_nothing_of_it(place, tmp_path):
    source = save_pictures(tmp_path / "pictures")
    broken = tmp_path / "pictures" / "red" / "dark" / "0.png"
    broken.write_bytes(b"\x89PNG secret" + bytes(100))
    with pytest.raises(SettingsError) as caught:
        prepare(picture_recipe(place[0], source))
    assert f"{broken}: no image that can be read; give one of" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert str(broken) + ":1" not in str(caught.value)


def test_a_processor_that_makes_images_of_several_sizes_is_refused(place, tmp_path):
    model = save_vit(tmp_path / "model", size={"shortest_edge": 16})
    with pytest.raises(SettingsError, match=r"makes images of several sizes, which are no batch"):
        prepare(picture_recipe(model, place[1]))


def test_a_model_that_cannot_read_what_its_processor_makes_is_refused(place, tmp_path):
    model = save_vit(tmp_path / "model", side=24)
    with pytest.raises(SettingsError, match=r"a ViTModel cannot read the images that its image processor makes"):
        prepare(picture_recipe(model, place[1]))


def test_another_processor_is_another_base(place, tmp_path):
    found = {
        load_base(ModelSettings(id=model, task="image-classification"), CLASSES).fingerprint
        for model in (place[0], save_vit(tmp_path / "same"), save_vit(tmp_path / "other", image_mean=[0.1, 0.5, 0.5]))
    }
    assert len(found) == 2


@pytest.mark.parametrize("changed", [["train.head=frozen"], FIRST_STEP])
def test_what_a_head_of_zeros_would_make_useless_is_refused(place, changed):
    with pytest.raises(SettingsError, match=r"head .*zero"):
        prepare(picture_recipe(*place, *changed))


def test_a_deployment_s_files_hold_the_same_images(place, tmp_path):
    recipe = picture_recipe(*place)
    names = write_site_files(recipe, tmp_path / "sites")
    files = [str(tmp_path / "sites" / name / "train.csv") for name in names]
    rows = [row for file in files for row in read_rows(file, Columns(IMAGE_AND_LABEL))]
    simulation = prepare(recipe)
    assert len(rows) == sum(train for train, _ in simulation.data.sizes.values())
    assert all(row.image("image")[:4] == b"\x89PNG" for row in rows)


def test_every_picture_is_other_numbers(place):
    simulation = prepare(picture_recipe(*place))
    items = simulation.data.held_out.items
    assert len({item["pixel_values"].numpy().tobytes() for item in items}) == len(items)
    assert items[0]["pixel_values"].dtype == torch.float32
