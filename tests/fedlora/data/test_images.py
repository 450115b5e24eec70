"""Images as rows: folders of classes, tables of paths, Parquet, MNIST's form; what is no image costs its own row."""

import contextlib
import gzip
import io
import json
import struct
import warnings

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from fedlora.data.form import IMAGE_AND_LABEL, Columns
from fedlora.data.images import decoding, packaged
from fedlora.data.images.cells import NO_IMAGES
from fedlora.data.images.decoding import ImageError, image_of
from fedlora.data.packaged import PACKAGED
from fedlora.data.row import fingerprint
from fedlora.data.rows import files_behind, read_rows, read_source, read_whole
from fedlora.settings import SettingsError
from tests.pictures import CLASSES, png, save_pictures

IMAGES = Columns(IMAGE_AND_LABEL)
BY_CLIENT = Columns(IMAGE_AND_LABEL, client="client", client_by_file=True)


def test_the_folder_above_an_image_is_its_class_and_the_one_above_it_the_client(tmp_path):
    rows = read_rows(save_pictures(tmp_path / "deep", per_class=2, clients=("blue", "red")), BY_CLIENT)
    assert {(row.client, row.label) for row in rows} == {(c, label) for c in ("blue", "red") for label in CLASSES}
    assert len(rows) == 8
    shallow = save_pictures(tmp_path / "shallow", per_class=2, clients=())
    assert {(row.client, row.label) for row in read_rows(shallow, IMAGES)} == {("", label) for label in CLASSES}
    assert {row.client for row in read_rows(str(tmp_path / "deep"), IMAGES)} == {""}


def test_a_row_is_known_by_its_file_s_bytes_and_never_by_its_name(tmp_path):
    source = save_pictures(tmp_path, per_class=2, clients=())
    (tmp_path / "dark" / "again.png").write_bytes((tmp_path / "dark" / "0.png").read_bytes())
    found = read_source(source, IMAGES)
    assert found.counts.repeated == 1
    row = found.rows[0]
    assert row.key == row["image"] == fingerprint(row.image("image"))
    with pytest.raises(TypeError, match="column 'label' holds texts"):
        row.image("label")


def test_an_image_of_two_classes_is_in_neither(tmp_path):
    source = save_pictures(tmp_path, per_class=2, clients=())
    (tmp_path / "light" / "again.png").write_bytes((tmp_path / "dark" / "0.png").read_bytes())
    assert read_source(source, IMAGES).counts.conflicting == 2


def test_folders_that_are_no_clients_are_refused_where_clients_are_asked_for(tmp_path):
    source = save_pictures(tmp_path / "a", per_class=1, clients=())
    with pytest.raises(SettingsError, match=r"does not say whose an image is: .* data.partition=iid"):
        read_rows(source, BY_CLIENT)
    splits = save_pictures(tmp_path / "b", per_class=1, clients=("test", "train"))
    with pytest.raises(SettingsError, match=r"the folders test, train of .* are parts of one data set and no clients"):
        read_rows(splits, BY_CLIENT)


def test_an_image_that_lies_elsewhere_or_is_of_another_kind_costs_its_row_alone(tmp_path):
    source = save_pictures(tmp_path, per_class=2, clients=("blue",))
    before = read_rows(source, BY_CLIENT)
    for name in ("top.png", "blue/middle.png", "blue/dark/scan.DCM", "blue/dark/deeper/none.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png(200, corner=99))
    found = read_source(source, BY_CLIENT)
    assert list(found.rows) == before
    assert found.malformed == (
        f"{tmp_path / 'blue' / 'dark' / 'scan.DCM'}: an image of a kind that is not read; save it as PNG or JPEG.",
        f"{tmp_path / 'blue' / 'middle.png'}: an image in no client's folder; move its class's folder into one.",
        f"{tmp_path / 'top.png'}: an image in no class's folder; move it into one.",
    )
    assert found.counts.read == len(before) + 3


def test_what_is_no_image_in_a_folder_is_passed_over(tmp_path):
    source = save_pictures(tmp_path, per_class=2, clients=())
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "dark" / "Thumbs.db").write_bytes(b"")
    (tmp_path / "dark" / ".hidden.png").write_bytes(b"")
    assert len(read_rows(source, IMAGES)) == 4


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.csv", "when,who\n1,me\n"),
        ("notes.tsv", "label\tcount\ndark\t2\n"),
        ("broken.csv", 'no "list of columns\n'),
        ("empty.csv", ""),
        ("book.csv", "PK\x03\x04"),
        ("tags.conll", "bag O\n"),
    ],
)
def test_a_stray_table_beside_class_folders_is_named_and_not_read(tmp_path, caplog, name, content):
    source = save_pictures(tmp_path, per_class=2, clients=("blue", "red"))
    before = read_rows(source, BY_CLIENT)
    assert not caplog.text
    (tmp_path / name).write_text(content)
    assert read_rows(source, BY_CLIENT) == before
    assert len(before) == 8
    assert f"{tmp_path / name} is not read: it has no column 'image', and beside it are folders of im" in caplog.text
    assert files_behind(source, IMAGES) == sorted(tmp_path.rglob("*.png"))


@pytest.mark.parametrize("column", ["image", "file_name", "scan"])
def test_a_table_that_names_images_says_more_than_the_folders_that_they_lie_in(tmp_path, column):
    """Under a usual name, too, where the settings have another: it is refused, and no folder is taken for a class."""
    save_pictures(tmp_path, per_class=1, clients=())
    table(tmp_path, [("dark/0.png", "x"), ("light/0.png", "y")], columns=(column, "label"))
    rows = read_rows(str(tmp_path), Columns(IMAGE_AND_LABEL, renamed=(("image", column),)))
    assert [row.label for row in rows] == ["x", "y"]
    if column == "file_name":
        with pytest.raises(SettingsError, match=r"data\.columns\.image='image': .* has no such column"):
            read_rows(str(tmp_path), IMAGES)


def table(folder, lines, *, name="t.csv", columns=("image", "label")):
    folder.mkdir(exist_ok=True)
    path = folder / name
    if name.endswith(".csv"):
        path.write_text("\n".join(",".join(line) for line in [columns, *lines]))
    else:
        path.write_text("\n".join(json.dumps(dict(zip(columns, line, strict=True))) for line in lines))
    return str(path)


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_a_table_names_files_relative_to_itself(tmp_path, name):
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / "in" / f"{number}.png").write_bytes(png(number))
    source = table(tmp_path, [(f"in/{n}.png", "x") for n in range(3)], name=name, columns=("file_name", "label"))
    named = Columns(IMAGE_AND_LABEL, renamed=(("image", "file_name"),))
    assert [row.image("image") for row in read_rows(source, named)] == [png(0), png(1), png(2)]


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("../secret.png", "a path that leaves the table's folder"),
        ("in/../../secret.png", "a path that leaves the table's folder"),
        ("/etc/passwd", "a path that leaves the table's folder"),
        ("link.png", "a path that leaves the table's folder"),
        ("nowhere.png", "the path of no file"),
        ("in", "the path of no file"),
        ("a\0b.png", "no path"),
        ("x" * 5000, "a file that cannot be opened"),
        ("broken.png", "no image that can be read"),
    ],
)
def test_a_path_that_is_none_or_leaves_the_folder_costs_its_row_alone(tmp_path, path, what):
    inside = tmp_path / "data"
    (inside / "in").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(png(7))
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    (inside / "broken.png").write_bytes(png(7)[:40])
    (inside / "good.png").write_bytes(png(8))
    source = table(inside, [("good.png", "x"), (path, "y")], name="t.jsonl")
    found = read_source(source, IMAGES)
    assert [row.label for row in found.rows] == ["x"]
    ((said, count),) = found.counts.unusable
    assert said.startswith(what)
    assert count == 1
    assert found.malformed[0].startswith(f"{source}:2: {what}")
    with pytest.raises(SettingsError, match=r"t\.jsonl:2: "):
        read_whole(source, IMAGES)


def test_parquet_holds_the_bytes_themselves_or_what_datasets_writes(tmp_path):
    (tmp_path / "beside.png").write_bytes(png(3))
    cells = [{"bytes": png(1), "path": "a.png"}, {"bytes": None, "path": "beside.png"}, {"bytes": b"no", "path": ""}]
    struct_type = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    made = pyarrow.table({"image": pyarrow.array([*cells, None], struct_type), "label": ["x", "y", "z", "x"]})
    parquet.write_table(made, tmp_path / "a.parquet")
    found = read_source(str(tmp_path / "a.parquet"), IMAGES)
    assert [row.image("image") for row in found.rows] == [png(1), png(3)]
    assert found.malformed == (
        f"{tmp_path / 'a.parquet'} row 3: no image that can be read in column 'image'; give one of "
        f"{', '.join(decoding.FORMATS)}.",
    )
    parquet.write_table(pyarrow.table({"image": [png(1), png(2)], "label": [7, 8]}), tmp_path / "b.parquet")
    assert [row.label for row in read_rows(str(tmp_path / "b.parquet"), IMAGES)] == ["7", "8"]


def save_idx(folder, *, count=3, labels=(0, 1, 1), pack=False):
    pixels = bytes(range(count * 6))
    files = {
        "train-images-idx3-ubyte": struct.pack(">4I", 0x803, count, 2, 3) + pixels,
        "train-labels-idx1-ubyte": struct.pack(">2I", 0x801, len(labels)) + bytes(labels),
    }
    for name, content in files.items():
        name, content = (f"{name}.gz", gzip.compress(content)) if pack else (name, content)
        (folder / name).write_bytes(content)
    return folder / ("train-images-idx3-ubyte" + ".gz" * pack)


@pytest.mark.parametrize("pack", [False, True])
def test_mnist_s_own_form_is_read_pixel_by_pixel(tmp_path, pack):
    rows = read_rows(str(save_idx(tmp_path, pack=pack)), IMAGES)
    assert [row.label for row in rows] == ["0", "1", "1"]
    image = image_of(rows[1].image("image"))
    assert image.size == (3, 2)
    assert [image.getpixel((x, y))[0] for y in range(2) for x in range(3)] == [6, 7, 8, 9, 10, 11]


def test_files_of_mnist_s_form_that_do_not_fit_are_refused(tmp_path):
    path = save_idx(tmp_path, labels=(0, 1))
    with pytest.raises(SettingsError, match=r"it has 3 images, and train-labels-idx1-ubyte has 2 classes"):
        read_rows(str(path), IMAGES)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SettingsError, match="cut short, or longer than its header says"):
        read_rows(str(path), IMAGES)
    path.write_bytes(struct.pack(">4I", 0x803, 2**31, 2**10, 2**10))
    with pytest.raises(SettingsError, match="more than 2147483648 are not read"):
        read_rows(str(path), IMAGES)
    path.write_bytes(b"PK\3\4 no idx at all")
    with pytest.raises(SettingsError, match="is no IDX file of the kind that its name says"):
        read_rows(str(path), IMAGES)


def bomb(side: int = 20_000) -> bytes:
    """A small file of very many pixels."""
    file = io.BytesIO()
    Image.new("1", (side, side)).save(file, "PNG")
    return file.getvalue()


def test_an_image_of_too_many_pixels_is_refused_by_its_header_and_without_a_warning(monkeypatch):
    monkeypatch.setattr(decoding, "MOST_PIXELS", 100)
    with pytest.raises(ImageError, match="an image of more than"):
        image_of(png(1, size=(11, 10)))
    image_of(png(1, size=(10, 10)))
    monkeypatch.undo()
    with warnings.catch_warnings(record=True) as said, pytest.raises(ImageError, match="more than 89478485 pixels"):
        image_of(bomb(10_000))  # Pillow itself warns
    assert not said
    with pytest.raises(ImageError, match="more than 89478485 pixels"):
        image_of(bomb())  # Pillow itself refuses
    assert decoding.MOST_PIXELS == Image.MAX_IMAGE_PIXELS


def test_what_pillow_would_cut_or_start_a_program_for_is_refused():
    deep = io.BytesIO()
    Image.new("I;16", (4, 4), 40_000).save(deep, "PNG")
    with pytest.raises(ImageError, match="more than eight bits a channel"):
        image_of(deep.getvalue())
    with pytest.raises(ImageError, match="no image that can be read"):
        image_of(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP"])
def test_an_image_of_any_format_that_is_read_and_is_cut_short_raises_nothing_else(form):
    content = png(100, form=form)
    assert image_of(content).mode == "RGB"
    for length in range(0, len(content), 7):
        with contextlib.suppress(ImageError):  # what ends in a trailer is whole without its last bytes
            image_of(content[:length])


def test_a_camera_s_note_turns_the_image():
    file, note = io.BytesIO(), Image.Exif()
    note[0x0112] = 6
    Image.new("RGB", (8, 4)).save(file, "JPEG", exif=note)
    assert image_of(file.getvalue()).size == (4, 8)


def test_columns_of_no_images_are_left_as_they_are():
    assert NO_IMAGES.whole_or_not(1, ("../x", "y"), ("text", "label")) == ("../x", "y")


def test_the_packaged_digits_are_images_of_nobody():
    rows = list(PACKAGED["digits"].rows())
    assert len(rows) == 1797
    assert {row.label for row in rows} == set("0123456789")
    assert image_of(rows[0].image("image")).size == (8, 8)
    with pytest.raises(SettingsError, match=r"'digits' says of no row whose it is; give data.partition=dirichlet"):
        read_rows("digits", BY_CLIENT)


def test_fashion_is_what_debian_installs_with_the_names_of_its_classes(tmp_path, monkeypatch):
    monkeypatch.setattr(packaged, "FASHION", save_idx(tmp_path, pack=True, labels=(9, 0, 1)))
    assert [row.label for row in PACKAGED["fashion"].rows()] == ["Ankle boot", "T-shirt/top", "Trouser"]
    monkeypatch.setattr(packaged, "FASHION", tmp_path / "nowhere")
    with pytest.raises(SettingsError, match=r"not installed; install them with: apt-get install dataset-fashion-mnist"):
        list(PACKAGED["fashion"].rows())


def test_images_without_pillow_are_refused_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(decoding.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"need the package pillow, .* pip install 'fedlora\[vision\]'"):
        image_of(png(1))
