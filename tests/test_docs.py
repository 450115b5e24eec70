"""The documents are true: files that are named exist, commands parse, recipes are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fedlora.cli import load_command
from fedlora.config import load
from simulations.commands import recipe_path

ROOT = Path(__file__).resolve().parents[1]
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


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_every_link_leads_to_a_file(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert not [link for link in links if not (ROOT / link).exists()]


def fedlora_lines() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.S)
    return [line for block in blocks for line in block.splitlines() if line.startswith("fedlora ")]


@pytest.mark.parametrize("line", fedlora_lines())
def test_every_command_of_the_readme_parses(line):
    """Options, recipes and settings are real; running them is for the simulations' own tests."""
    words = shlex.split(line, comments=True)[1:]
    command, arguments = load_command(words[0]), words[1:]
    if hasattr(command, "commands"):
        command, arguments = command.commands[arguments[0]], arguments[1:]
    context = command.make_context(words[0], arguments, resilient_parsing=False)
    overrides = context.params.get("overrides") or []
    for recipe in [context.params.get("recipe"), *(context.params.get("runs") or [])]:
        if isinstance(recipe, str) and words[0] in ("simulate", "compare"):
            load(recipe_path(recipe), overrides)


def test_the_makefiles_targets_in_the_readme_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    assert set(re.findall(r"^make ([a-z-]+)", README, flags=re.M)) <= targets
