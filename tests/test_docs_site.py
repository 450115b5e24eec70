"""The documents as a site: every page can be reached, nothing comes from elsewhere, a broken link is an error, and the
pages that are made of the code say what it says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from docs.site.build import build
from docs.site.generated import PAGES
from fedlora import __version__, cli
from fedlora.config import Recipe
from fedlora.config.recipe import recipe_schema

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "simulations" / "recipes").glob("*.yaml"))


def test_every_document_is_in_the_navigation():
    listed = set(re.findall(r"[\w/.-]+\.md", (ROOT / "docs/site/mkdocs.yml").read_text()))
    lying = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").glob("**/*.md")}
    made = {place for place in PAGES if place.endswith(".md")}
    assert listed == lying | made


def test_every_section_and_setting_has_its_line():
    page = PAGES["reference/settings.md"]()
    for name, field in Recipe.model_fields.items():
        assert f"## {name}\n" in page
        if isinstance(settings := field.default, Recipe.__mro__[1]):
            assert all(f"| `{name}.{setting}` |" in page for setting in type(settings).model_fields)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_schema_takes_every_packaged_recipe(recipe, tmp_path):
    assert checked(recipe.read_text(), tmp_path) == 0


@pytest.mark.parametrize("wrong", [{"train": {"lr": -1}}, {"trian": {}}, {"train": {"schedule": "cosin"}}])
def test_the_schema_refuses_what_the_check_refuses(wrong, tmp_path):
    assert checked(yaml.safe_dump(wrong), tmp_path) == 1


def checked(recipe: str, folder: Path) -> int:
    """The exit status of check-jsonschema, the program that editors' own checks are like."""
    (folder / "schema.json").write_text(json.dumps(recipe_schema()))
    (folder / "recipe.yaml").write_text(recipe)
    command = [Path(sys.executable).with_name("check-jsonschema"), "--schemafile", "schema.json", "recipe.yaml"]
    return subprocess.run(command, cwd=folder, capture_output=True).returncode


def test_windows_is_told_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "WSL 2" in capsys.readouterr().err


def test_the_citation_is_of_this_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__


@pytest.mark.slow
def test_the_site_is_made_and_asks_nobody_for_anything(tmp_path):
    site = build(tmp_path / "built")
    pages = list(site.glob("**/*.html"))
    assert {str(Path(place).with_suffix(".html")) for place in PAGES if place.endswith(".md")} <= {
        str(page.relative_to(site)) for page in pages
    }
    for page in pages:
        text = page.read_text()
        assert re.findall(r'<(?:script|img|iframe)[^>]*src="(?:https?:)?//', text) == []
        assert re.findall(r'<link[^>]*rel="(?:stylesheet|preconnect|icon)"[^>]*href="(?:https?:)?//', text) == []
    assert json.loads((site / "recipe.schema.json").read_text()) == recipe_schema()


@pytest.mark.slow
def test_a_broken_link_ends_the_build(tmp_path, monkeypatch):
    monkeypatch.setitem(PAGES, "reference/strategies.md", lambda: "# Strategies\n\n[lost](../nowhere.md)\n")
    with pytest.raises(subprocess.CalledProcessError):
        build(tmp_path / "built")
