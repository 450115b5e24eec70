"""A converted model is what one conversion wrote, whoever else converts, dies or writes into the folder."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from fedlora.models import converted as module
from fedlora.models.converted import converted, is_whole
from fedlora.settings import SettingsError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fedlora" / "models"


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(b"weights")
    return path


def write(source: Path, folder: Path) -> None:
    """Writes the source, and one line beside the source for every conversion."""
    (folder / "weights").write_bytes(source.read_bytes())
    (folder / "config").write_text("config")
    with (source.parent / "conversions").open("a") as log:
        log.write("one\n")


def conversions(file: Path) -> int:
    return len((file.parent / "conversions").read_text().splitlines())


def again(file: Path, *, by: str = "1") -> Path:
    """As another process would ask."""
    module._converted.cache_clear()
    return converted(file, by=by, convert=write)


def test_it_is_converted_once(file):
    folder = again(file)
    assert (folder / "weights").read_bytes() == b"weights"
    assert again(file) == folder
    assert conversions(file) == 1


def test_another_file_or_another_converter_has_another_folder(file):
    first = again(file)
    assert again(file, by="2") != first
    file.write_bytes(b"Weights")
    assert again(file) != first
    assert converted(file, by="1", convert=write) != first, "in the same process as well"


DAMAGE = {
    "a flipped bit": lambda folder: (folder / "weights").write_bytes(b"weighus"),
    "a cut file": lambda folder: (folder / "weights").write_bytes(b"weigh"),
    "a missing file": lambda folder: (folder / "config").unlink(),
    "a file more": lambda folder: (folder / "tokenizer_config.json").write_text("{}"),
    "no list": lambda folder: (folder / "contents.json").unlink(),
    "a list that is none": lambda folder: (folder / "contents.json").write_text("[1]"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_folder_is_written_anew(file, what, caplog):
    folder = again(file)
    DAMAGE[what](folder)
    assert not is_whole(folder)
    assert again(file) == folder
    assert is_whole(folder)
    assert conversions(file) == 2
    assert "is damaged: it is written anew" in caplog.text


def write_half_and_die(source: Path, folder: Path) -> None:
    (folder / "weights").write_bytes(b"wei")
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_left_behind_is_not_used(file):
    process = multiprocessing.get_context("fork").Process(
        target=converted, args=(file,), kwargs={"by": "1", "convert": write_half_and_die}
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (again(file) / "weights").read_bytes() == b"weights"


def test_processes_that_ask_at_once_convert_once(file):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=again, args=(file,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert conversions(file) == 1


def test_a_conversion_that_fails_leaves_no_folder(file, cache):
    def fail(source: Path, folder: Path) -> None:
        raise SettingsError("this is no model")

    with pytest.raises(SettingsError, match="this is no model"):
        converted(file, by="1", convert=fail)
    assert [entry.suffix for entry in cache.iterdir()] == [".lock"]


def test_a_cache_that_cannot_be_written_is_said_with_the_way_out(file, tmp_path):
    (tmp_path / "cache").write_text("a file where a folder belongs")
    with pytest.raises(SettingsError, match=r"copy of model\.bin cannot be kept in .*set XDG_CACHE_HOME to a folder"):
        again(file)
