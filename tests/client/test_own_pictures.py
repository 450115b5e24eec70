"""A site's images: one more or less moves at most one example, one that cannot be read is ignored, none is shown."""

import logging
import random

import pytest
import torch

from client.deployed import respond, tokenised
from client.deployment.data_findings import data, texts
from client.own_rows import own_rows
from client.settings import ClientSettings, SiteData
from fedlora.config import ModelSettings
from fedlora.data.form import IMAGE_AND_LABEL
from fedlora.data.row import Row
from fedlora.models.base import load_base, load_processor
from fedlora.settings import SettingsError
from fedlora.tasks import image_classification
from fedlora.tasks.base import IGNORED
from fedlora.tasks.registry import task_named
from tests.pictures import CLASSES, png, save_pictures, save_vit
from tests.privacy.rounds import first_task

SECRET = b"\x89PNG a secret that no log shows"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> ModelSettings:
    folder = save_vit(tmp_path_factory.mktemp("models") / "vit")
    return ModelSettings(id=folder, task="image-classification")


def site(folder, **data) -> ClientSettings:
    return ClientSettings(
        site="clinic", coordinator="c:1", state=folder / "state",
        data=SiteData(train=folder / "train", task="image-classification", **data),
    )  # fmt: skip


def examples(settings: ClientSettings) -> set[tuple[str, str]]:
    rows = own_rows(settings)
    return {(row.key, row["label"]) for row in rows.train}


def any_file(draw: random.Random) -> bytes:
    """Repeats, broken files and empty ones: few images, so that they meet."""
    return draw.choice([*(png(shade) for shade in range(9)), SECRET, b"", png(3)[:50]])


def put(folder, name: str, draw: random.Random):
    """Anywhere, under any name: one file must not decide how others are read."""
    place = draw.choice(["dark", "light", "light", "", "dark/deep", "train/dark"])
    path = folder / place / (name + draw.choice([".png", ".png", ".png", ".dcm", ".txt"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(any_file(draw))
    return path


def test_one_image_more_or_less_moves_at_most_one_example(tmp_path):
    for seed in range(20):
        draw, folder = random.Random(seed), tmp_path / str(seed)
        save_pictures(folder / "train", per_class=5, clients=())
        for number in range(draw.randrange(12)):
            put(folder / "train", f"any-{number}", draw)
        before = examples(site(folder))
        more = put(folder / "train", "0-first", draw)
        assert len(before ^ examples(site(folder))) <= 1
        more.unlink()
        assert examples(site(folder)) == before


def test_a_file_that_is_no_image_is_counted_and_shown_to_this_site_alone(tmp_path):
    save_pictures(tmp_path / "train", per_class=5, clients=())
    before = examples(site(tmp_path))
    (tmp_path / "train" / "dark" / "bad.png").write_bytes(SECRET)
    rows = own_rows(site(tmp_path))
    assert examples(site(tmp_path)) == before
    assert dict(rows.counts.unusable) == {"no image that can be read": 1}
    assert rows.malformed[0].startswith(f"{tmp_path / 'train' / 'dark' / 'bad.png'}: no image")
    assert "bad.png" not in repr(rows.counts)


def test_the_doctor_says_how_large_the_images_are_and_lists_broken_ones(tmp_path):
    save_pictures(tmp_path / "train", per_class=5, clients=())
    (tmp_path / "train" / "dark" / "bad.png").write_bytes(SECRET)
    assert texts(site(tmp_path), None).said.startswith("10, of at most ")
    assert "bad.png: no image that can be read" in data(site(tmp_path)).said


def test_under_privacy_what_cannot_be_decoded_stays_in_and_is_ignored(model, caplog):
    rows = tuple(Row(IMAGE_AND_LABEL, (content, label)) for content, label in
                 [(png(1), "dark"), (SECRET, "light"), (png(2), "grey"), (png(250), "light")])  # fmt: skip
    processor = load_processor(model)
    with caplog.at_level(logging.DEBUG):
        parts = tokenised(rows, rows[:1], processor, CLASSES, on=model, ignore_unusable=True)
    assert [int(item["labels"]) for item in parts.train.items] == [0, IGNORED, IGNORED, 1]
    assert {tuple(item["pixel_values"].shape) for item in parts.train.items} == {(3, 16, 16)}
    assert "secret" not in caplog.text
    with pytest.raises(SettingsError, match=r"example 2 cannot be used: it is no image that can be read") as caught:
        tokenised(rows[:2], rows[:1], processor, CLASSES, on=model, ignore_unusable=False)
    assert "secret" not in str(caught.value)
    base = load_base(model, CLASSES)
    batch = parts.train.batch(range(4))
    assert parts.train.task.losses(base.model, batch)[[1, 2]].tolist() == [0, 0]


def test_a_private_task_is_answered_with_a_broken_image_in_the_folder(model, tmp_path, caplog):
    save_pictures(tmp_path / "train", per_class=20, clients=())
    (tmp_path / "train" / "dark" / "bad.png").write_bytes(SECRET)
    (tmp_path / "policy.yaml").write_text(f"base_models: [{model.id}]\n")
    settings = site(tmp_path).model_copy(update={"policy": tmp_path / "policy.yaml"})
    with caplog.at_level(logging.DEBUG):
        report, blob = respond(*first_task(model.id, CLASSES, kind=model.task), settings)
    assert (report.outcome, report.code) == ("trained", None)
    assert blob
    assert "secret" not in caplog.text


def test_an_ignored_image_is_one_of_zeros_without_a_class(model):
    kind = tokenised((Row(IMAGE_AND_LABEL, (png(1), "dark")),), (), load_processor(model), CLASSES, on=model,
                     ignore_unusable=True).train  # fmt: skip
    ignored = kind.task.ignored(kind.items[0])
    assert not ignored["pixel_values"].any()
    assert int(ignored["labels"]) == IGNORED
    assert not kind.task.usable(load_base(model, CLASSES).model)({"pixel_values": torch.tensor([float("nan")])})


def test_a_link_that_leads_nowhere_and_an_image_like_a_thread_cost_themselves_alone(tmp_path):
    save_pictures(tmp_path / "train", per_class=20, clients=())
    before = examples(site(tmp_path))
    (tmp_path / "train/dark/nowhere.png").symlink_to("/nowhere")
    (tmp_path / "train/dark/loop.png").symlink_to("loop.png")
    (tmp_path / "train/dark/thread.png").write_bytes(png(3, size=(1000, 1)))
    assert examples(site(tmp_path)) == before
    said = str(own_rows(site(tmp_path)).counts)
    assert "1 with an image more than 100 times as long as it is wide" in said


def test_whatever_a_processor_raises_on_one_image_it_is_ignored_under_privacy(model, monkeypatch):
    def failing(image, processor):
        raise MemoryError

    monkeypatch.setattr(image_classification, "pixels_of", failing)
    rows, processor = [Row(IMAGE_AND_LABEL, (png(3), CLASSES[0]))], load_processor(model)
    (item,) = task_named(model.task).encode(rows, processor, CLASSES, longest=2, padding=0, each=True)
    assert item["labels"] == IGNORED
    with pytest.raises(SettingsError, match=r"example 1 cannot be used: MemoryError\."):
        task_named(model.task).encode(rows, processor, CLASSES, longest=2, padding=0, each=False)
