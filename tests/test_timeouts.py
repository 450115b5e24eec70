"""docs/reliability.md names every time-out, pause and interval of the system, settings with the default of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from client.settings import Deadlines as SitePatience
from fedlora.config.rounds import RoundSettings
from server.settings import Deadlines as ServerPatience

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "reliability.md").read_text()
CONSTANT = re.compile(r"^([A-Z][A-Z_, ]*)(?:: \w+)? = ", re.MULTILINE)


def constants() -> list[tuple[str, str]]:
    return [
        (str(path.relative_to(ROOT)), name.strip())
        for package in ("fedlora", "server", "client", "strategies")
        for path in sorted((ROOT / package).rglob("*.py"))
        for match in CONSTANT.finditer(path.read_text())
        for name in match[1].split(",")
        if name.strip().endswith("_S")
    ]


@pytest.mark.parametrize(("path", "name"), constants(), ids=lambda item: item)
def test_every_constant_in_seconds_is_listed_with_its_file(path, name):
    assert f"`{path}:{name}`" in TEXT


@pytest.mark.parametrize(
    ("section", "model"), [("patience", ServerPatience), ("patience", SitePatience), ("rounds", RoundSettings)]
)
def test_every_time_out_that_is_a_setting_is_listed_with_its_default(section, model):
    for name, field in model.model_fields.items():
        if name.endswith("_s"):
            assert re.search(rf"`{section}\.{name}` \| {field.default:g} \|", TEXT), name
