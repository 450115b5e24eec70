"""What goes with what: whether the settings of a recipe may meet, decided in one table (`table.py`).

A section's own settings are its own affair (`fedlora/config`), wherever it travels; a strategy's own options are too.
What stands in different sections, or depends on the strategy or on where a run takes place, is here and nowhere else.
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
