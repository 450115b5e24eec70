"""docs/combinations.md, made of the table; a test compares the two.

python -m strategies.compatibility.page > docs/combinations.md
"""

from __future__ import annotations

from collections.abc import Iterable

from fedlora.config import Recipe, override
from fedlora.settings import parse
from strategies.compatibility.case import Place, case_of
from strategies.compatibility.places import PLACE
from strategies.compatibility.rule import Rule
from strategies.compatibility.table import PRIVACY, ROBUST, STRATEGY
from strategies.compatibility.training import TRAINING
from strategies.compatibility.without_effect import WITHOUT_EFFECT

BEGINNING = """# What goes with what

These combinations are refused before a run starts, in these words, and by `fedlora config check RECIPE` at any time. A
row shows the shortest settings that a rule of `strategies/compatibility/table.py` refuses; this page is generated from
it. Every other pair of the settings named here is accepted (`tests/server/test_what_goes_together.py` tries them all).
Conflicts within one section, such as `privacy.adapt` without `privacy.epsilon`, are described at its settings:
`fedlora config show`.
"""
CHAPTERS = {
    "Strategies": STRATEGY,
    "Training": TRAINING,
    "Privacy": PRIVACY,
    "Robust rules": ROBUST,
    "Simulations, deployments, attacks": PLACE,
}
IDLE = """
## Settings without effect

Refused when a user starts a run, because the user would rely on them (`strategies/compatibility/without_effect.py`).
"""
HEAD = "| together | what is said |\n|---|---|\n"


def page() -> str:
    """The whole document."""
    chapters = (f"\n## {title}\n\n{HEAD}{rows(rules)}" for title, rules in CHAPTERS.items())
    return f"{BEGINNING}{''.join(chapters)}{IDLE}\n{HEAD}{rows(WITHOUT_EFFECT)}"


def rows(rules: Iterable[Rule]) -> str:
    return "".join(f"{row(rule)}\n" for rule in rules)


def row(rule: Rule) -> str:
    """The example and the message."""
    case = case_of(parse(Recipe, override({}, rule.example)), rule.where)
    settings = [*(f"`{setting}`" for setting in rule.example), *place(rule.where)]
    return f"| {', '.join(settings)} | {rule.said(case)} |"


def place(where: Place) -> list[str]:
    """The place as text; empty for a simulation's usual place."""
    engine = {"local": [], "ray": ["`--engine ray`"], "sites": ["a deployment"]}[where.engine]
    return engine if where.evaluates else [*engine, "no `held_out`"]


if __name__ == "__main__":
    print(page(), end="")
