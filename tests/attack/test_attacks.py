"""The attacks that take seconds, for every change; `make attack` tries all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attack.attacks import ATTACKS
from tests.attack.report import table, write_between

QUICK = {"split", "strategy", "malformed row", "another name", "receipt", "subnormal clip", "positions", "tokenizer"}
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("attack", [attack for attack in ATTACKS if attack.name in QUICK], ids=lambda a: a.name)
def test_the_attack_gains_nothing(attack, tmp_path):
    gain = attack.run(tmp_path)
    assert gain.held, gain.said


def test_every_attack_has_a_short_form_and_a_line_in_the_document():
    document = (ROOT / "docs" / "privacy_attacks.md").read_text()
    for attack in ATTACKS:
        assert f"--only '{attack.name}'" in document
        for test in attack.tests:
            assert (ROOT / test).is_file(), test


def test_a_table_stands_between_its_marks(tmp_path):
    document = tmp_path / "a.md"
    document.write_text("# A\n<!-- written by make b -->\nold\n<!-- end -->\nend\n")
    write_between(document, "make b", table(["x"], [[1]]))
    assert document.read_text() == "# A\n<!-- written by make b -->\n| x |\n|---|\n| 1 |\n<!-- end -->\nend\n"
    with pytest.raises(ValueError, match="lacks the marks <!-- written by make c -->"):
        write_between(document, "make c", "")
