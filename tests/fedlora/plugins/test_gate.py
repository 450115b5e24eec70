"""Nobody's code is run by a name unless this process was opened to its package, as its files were when it was read."""

from __future__ import annotations

import sys

import pytest

from fedlora.plugins.gate import hash_of, open_to, opened_to
from fedlora.plugins.loading import load_plug_in
from fedlora.plugins.names import Kind
from fedlora.settings import SettingsError
from tests.plugins.places import installed

READ = "class Thing: ...\n"


@pytest.fixture(autouse=True)
def closed():
    """As every process begins."""
    before = opened_to()
    open_to({})
    yield
    open_to(before)


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "read_before"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "thing.py").write_text(READ)
    with installed(monkeypatch, tmp_path):
        yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "read_before"]:
        del sys.modules[name]


def test_a_process_that_nobody_opened_imports_nothing(package):
    with pytest.raises(SettingsError, match="its package read_before is not listed under `plugins`; once you have"):
        load_plug_in(Kind.STRATEGY, "read_before.thing:Thing")
    assert not [name for name in sys.modules if name.startswith("read_before")]


def test_the_line_that_the_refusal_writes_opens_the_process(package):
    open_to({"read_before": hash_of("read_before")})
    assert load_plug_in(Kind.STRATEGY, "read_before.thing:Thing").__name__ == "Thing"


@pytest.mark.parametrize("change", ["thing.py", "other.py", "data.json"])
def test_a_file_that_was_changed_or_added_closes_it_again(package, change):
    open_to({"read_before": hash_of("read_before")})
    (package / change).write_text(READ + "# and more\n")
    with pytest.raises(SettingsError, match="are not those that were listed"):
        load_plug_in(Kind.STRATEGY, "read_before.thing:Thing")


def test_what_python_compiles_does_not_change_the_hash(package):
    before = hash_of("read_before")
    open_to({"read_before": before})
    load_plug_in(Kind.STRATEGY, "read_before.thing:Thing")
    assert hash_of("read_before") == before


def test_a_listed_package_opens_no_other(package):
    open_to({"read_before": hash_of("read_before")})
    for target, said in (
        ("subprocess:Popen", "its package subprocess is not listed"),
        ("os:system", "no files of its"),
    ):
        with pytest.raises(SettingsError, match=said):
            load_plug_in(Kind.OPTIMIZER, target)


def test_a_package_that_is_not_there_has_no_hash():
    assert hash_of("nowhere_to_be_found") is None
    with pytest.raises(SettingsError, match="no files of its package nowhere_to_be_found"):
        load_plug_in(Kind.TASK, "nowhere_to_be_found:Thing")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("read_before.thing:Thig", "read_before.thing has no Thig; did you mean read_before.thing:Thing?"),
        ("read_before.thin:Thing", "No module named 'read_before.thin'"),
    ],
)
def test_an_open_process_says_what_is_not_there(package, name, said):
    open_to("any")
    with pytest.raises(SettingsError, match=said):
        load_plug_in(Kind.STRATEGY, name)


def test_a_persons_own_folder_counts_only_while_their_module_is_imported(tmp_path, monkeypatch):
    (tmp_path / "beside_the_recipe.py").write_text(READ)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part not in ("", str(tmp_path))])
    with pytest.raises(SettingsError, match="no files of its package"):
        load_plug_in(Kind.STRATEGY, "beside_the_recipe:Thing")
    open_to("any")
    assert load_plug_in(Kind.STRATEGY, "beside_the_recipe:Thing").__name__ == "Thing"
    assert str(tmp_path) not in sys.path
    del sys.modules["beside_the_recipe"]
