"""Whatever a client is called in the data, its folder is one folder, inside, and nobody else's."""

from __future__ import annotations

from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from fedlora.folder_names import LONGEST, folder_name, name_of

NAMES = st.text(min_size=1)


@given(NAMES)
@example("../../../escaped")
@example("..")
@example(".hidden")
@example("/etc/passwd")
@example("C:\\x")
@example("nul\0byte")
@example(" ")
@example("a/b")
def test_a_folder_is_one_component_that_says_the_name(tmp_path_factory, name):
    folder = folder_name(name)
    assert Path(folder).name == folder
    assert folder not in (".", "..")
    assert not folder.startswith(".")
    assert len(folder.encode()) <= LONGEST
    if "%~" not in folder:
        assert name_of(folder) == name
    (tmp_path_factory.getbasetemp() / folder).mkdir(exist_ok=True)


@given(NAMES, NAMES)
@example("x" * 500, "x" * 501)
@example("a%2Fb", "a/b")
def test_two_names_never_share_a_folder(one, other):
    assert (folder_name(one) == folder_name(other)) == (one == other)


def test_usual_names_stay_as_they_are():
    assert [folder_name(name) for name in ("jetblue", "self-driving cars", "North_2")] == [
        "jetblue", "self-driving cars", "North_2",
    ]  # fmt: skip
