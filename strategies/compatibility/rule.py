"""A rule: settings that may not be combined, the reason, and an alternative."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from strategies.compatibility.case import ANYWHERE, Case, Place
from strategies.registry import named

Holds = Callable[[Case], object]


class Having:
    """`{having.linear_uploads}` in a text: the names of the strategies that have this trait."""

    def __getattr__(self, trait: str) -> str:
        return ", ".join(named(**{trait: True}))


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Refuses what `when` is true of, `unless` that is too."""

    name: str
    when: Holds
    unless: Holds = lambda case: False
    because: str
    """The settings with their values, and the reason. `c` is the case, `having` names strategies by their traits."""
    instead: str
    """The way out; it goes on after `because`."""
    example: tuple[str, ...]
    """The shortest recipe that it refuses, as `--set` takes it: for the document, and for the tests of the table."""
    where: Place = ANYWHERE
    """Where that recipe is refused."""

    def refuses(self, case: Case) -> bool:
        return bool(self.when(case)) and not self.unless(case)

    def said(self, case: Case) -> str:
        """The reason and the way out."""
        return f"{self.because} {self.instead}".format(c=case, having=Having())
