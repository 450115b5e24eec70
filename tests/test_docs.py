"""The documents are true: files that are named exist, commands parse, recipes are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from fedlora.cli import COMMANDS, load_command
from fedlora.config import Recipe, load
from fedlora.settings import parse
from strategies.compatibility import case_of, require_compatible
from strategies.registry import STRATEGIES

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PATH = re.compile(r"`((?:fedlora|strategies|server|client|simulations|tests|docs|deploy)/[\w./-]+\.\w+)`")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_file_of_the_readmes_map_exists():
    tree = README.split("## The map")[1].split("```")[1]
    folder, missing = "", []
    for line in tree.strip().splitlines():
        name = line.split()[0]
        folder = name if not line.startswith(" ") else folder
        path = ROOT / (name if not line.startswith(" ") else folder + name)
        if not path.exists():
            missing.append(str(path))
    assert not missing


def test_every_strategy_has_its_row_in_the_readme():
    table = README.split("| strategy | trains | exact |")[1].split("\n\n")[0]
    assert [name for name in STRATEGIES if f"`{name}`" not in table] == [], "a row in README.md's table of strategies"


def fedlora_lines() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.S)
    return [line for block in blocks for line in block.splitlines() if line.startswith("fedlora ")]


@pytest.mark.parametrize("line", fedlora_lines())
def test_every_command_of_the_readme_parses(line):
    """Options, recipes and settings are real; running them is for the simulations' own tests."""
    words = shlex.split(line, comments=True)[1:]
    command, arguments = load_command(words[0]), words[1:]
    if isinstance(command, click.Group) and not (command.invoke_without_command and arguments[0].startswith("--")):
        command, arguments = command.commands[arguments[0]], arguments[1:]
    context = command.make_context(words[0], arguments, resilient_parsing=False)
    overrides = context.params.get("overrides") or []
    for recipe in [context.params.get("recipe"), *(context.params.get("runs") or [])]:
        if isinstance(recipe, str) and words[0] in ("simulate", "compare"):
            require_compatible(case_of(load(recipe, overrides)))


def blocks(document: Path, *languages: str) -> list[str]:
    """The fenced blocks of these languages."""
    return [text for language, text in BLOCK.findall(document.read_text()) if language in languages]


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
    for text in blocks(document, "yaml"):
        values = yaml.safe_load(text)
        if set(values) <= set(Recipe.model_fields):  # other files have their own settings and tests
            require_compatible(case_of(parse(Recipe, values)))


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
            if command.invoke_without_command and (not rest or rest[0].startswith("--")):
                break
            assert rest[0] in command.commands, arguments
            command, rest = command.commands[rest[0]], rest[1:]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= options, arguments
