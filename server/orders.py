"""Commands to a running run, as the loop sees them: it checks before every round and while it waits."""

from __future__ import annotations

from typing import Protocol

from fedlora.settings import RunError


class StoppedError(RunError):
    """A user stopped the run; it remains as its last complete round left it."""


class RunControl(Protocol):
    """The loop's side of pause, stop and exclude."""

    def before_round(self, number: int) -> None:
        """Returns when the round may begin: waits while the run is paused. StoppedError if it was stopped."""

    def between_rounds(self) -> None:
        """Called while a round waits for its clients to connect. StoppedError if the run was stopped."""

    def during_round(self) -> None:
        """Called while a round waits for answers. StoppedError if the run was told to stop at once."""

    def excluded(self) -> frozenset[str]:
        """Sites that are not asked."""


class NoControl:
    """The loop's side without a store: there are no commands."""

    def before_round(self, number: int) -> None: ...

    def between_rounds(self) -> None: ...

    def during_round(self) -> None: ...

    def excluded(self) -> frozenset[str]:
        return frozenset()
