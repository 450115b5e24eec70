"""The table's readers: what is refused before a run, each with the reason and the way out, all at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fedlora.settings import SettingsError
from strategies.compatibility.case import Case
from strategies.compatibility.rule import Rule
from strategies.compatibility.table import RULES
from strategies.compatibility.without_effect import WITHOUT_EFFECT


def refusals(case: Case, rules: Iterable[Rule] = (*RULES, *WITHOUT_EFFECT)) -> Iterator[str]:
    """The messages of all rules that refuse it."""
    for rule in rules:
        if rule.refuses(case):
            yield rule.said(case)


def require_compatible(case: Case) -> None:
    """SettingsError where the run would be wrong: asked again wherever a run begins, or goes on."""
    _refuse(refusals(case, RULES))


def require_sensible(case: Case) -> None:
    """Check the same, and settings without effect: used when a user starts a run and can still correct the recipe."""
    _refuse(refusals(case))


def _refuse(found: Iterator[str]) -> None:
    if lines := list(found):
        raise SettingsError("\n".join(lines))
