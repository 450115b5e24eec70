"""The layout is a promise: the folders, the tree in the README, the paths and commands that the documents name."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import click
import pytest

from fedlora.cli import COMMANDS, load_command
from fedlora.config import Recipe
from fedlora.settings import parse

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"fedlora", "strategies", "server", "client", "simulations"}
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PATH = re.compile(r"`((?:fedlora|strategies|server|client|simulations|tests|docs|deploy)/[\w./-]+\.\w+)`")


def blocks(document: Path, *languages: str) -> list[str]:
    """The fenced blocks of these languages."""
    return [text for language, text in BLOCK.findall(document.read_text()) if language in languages]


def test_the_packages_are_the_four_units_and_fedlora():
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == {*PACKAGES, "tests"}


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_every_package_says_whose_machine_it_runs_on(name):
    assert importlib.import_module(name).__doc__


@pytest.mark.parametrize("name", ["fedlora.adapters"])
def test_exported_names_are_sorted_and_there(name):
    module = importlib.import_module(name)
    assert list(module.__all__) == sorted(module.__all__)
    assert all(hasattr(module, exported) for exported in module.__all__)


def test_the_tree_in_the_readme_is_the_tree_on_disk():
    (tree,) = blocks(ROOT / "README.md", "tree")
    named = [line.split()[0] for line in tree.splitlines() if line.strip()]
    assert [path for path in named if not (ROOT / path).exists()] == []
    assert {f"{name}/" for name in PACKAGES} <= set(named)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_that_a_document_names_exists(document):
    assert [path for path in PATH.findall(document.read_text()) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere(document):
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_blocks_compile(document):
    for text in blocks(document, "python"):
        compile(text, str(document), "exec")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_recipe_blocks_are_valid(document):
    import yaml

    for text in blocks(document, "yaml"):
        values = yaml.safe_load(text)
        if set(values) <= set(Recipe.model_fields):
            parse(Recipe, values)


def commands(document: Path) -> list[list[str]]:
    """Every `fedlora ...` and `make ...` line of the shell blocks, in words, comments removed."""
    lines = "\n".join(blocks(document, "sh", "bash", "console")).replace("\\\n", " ").splitlines()
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines if line.strip()]
    return [line for line in words if line and line[0] in ("fedlora", "make")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_that_a_document_shows_exists_with_its_options(document):
    for program, *arguments in commands(document):
        if program == "make":
            targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert {word for word in arguments if re.fullmatch(r"[a-z-]+", word)} <= set(targets)
            continue
        assert arguments[0] in COMMANDS, arguments
        command, rest = load_command(arguments[0]), arguments[1:]
        while isinstance(command, click.Group):
            assert rest[0] in command.commands, arguments
            command, rest = command.commands[rest[0]], rest[1:]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= options, arguments
