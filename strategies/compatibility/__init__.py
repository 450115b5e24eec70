"""Compatibility of settings: which settings of a recipe may be combined, decided in one table (`table.py`).

Conflicts within a section are checked in `fedlora/config`, and a strategy's own options in the strategy. Conflicts
between sections, or with the strategy or the place where a run takes place, are checked here and nowhere else.
"""

from strategies.compatibility.case import ANYWHERE, RAY, Case, Place, case_of
from strategies.compatibility.check import refusals, require_compatible, require_sensible
from strategies.compatibility.rule import Rule
from strategies.compatibility.table import RULES
from strategies.compatibility.without_effect import WITHOUT_EFFECT

__all__ = [
    "ANYWHERE",
    "RAY",
    "RULES",
    "WITHOUT_EFFECT",
    "Case",
    "Place",
    "Rule",
    "case_of",
    "refusals",
    "require_compatible",
    "require_sensible",
]
