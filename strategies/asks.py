"""What each strategy may train at a site: a site that allows a strategy by name allows this, and no more.

A name alone would bind nothing: whoever writes `strategies: [ffa]`, so that A stays as it was drawn, must not be asked
to train A under that name. What is allowed comes from the strategies themselves, as this installation has them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from fedlora.plugins.names import Kind, is_plug_in
from fedlora.privacy.policy import Policy, require_plug_in
from fedlora.privacy.refusal import Code, Refusal
from fedlora.protocol.task import Task
from fedlora.updates import Factor
from strategies.registry import STRATEGIES, build


@dataclass(frozen=True)
class Ask:
    """What one round trains."""

    trains: frozenset[Factor]
    """Trained and sent."""
    keeps: frozenset[Factor]
    """Trained and kept at the site."""
    kind: str
    """adapter.kind."""

    def without_head(self) -> Ask:
        return Ask(self.trains - {Factor.DENSE}, self.keeps - {Factor.DENSE}, self.kind)


GRADIENT = Ask(frozenset({Factor.B}), frozenset(), "lora")
"""The `init: client-gradients` of a core: one step on B alone, in a run of one round of its own."""


def asks_of(task: Task) -> frozenset[Ask]:
    """Everything that the task's strategy may train in the task's round; nothing for an unknown strategy.

    The head is trained as the strategy says, or frozen (`train.head`) and then in none of the sets.
    """
    if task.strategy not in STRATEGIES and not is_plug_in(Kind.STRATEGY, task.strategy, STRATEGIES):
        return frozenset()
    strategy = build(task.strategy, {})
    trains = strategy.trains(task.round)
    core = Factor.R in trains
    plain = Ask(trains, strategy.traits.keeps, "lora_xs" if core else "lora")
    allowed = {plain.without_head() if task.train.head == "frozen" else plain}
    if core and task.rounds == task.train.steps == 1:
        allowed.add(GRADIENT)
    return frozenset(allowed)


def require_own_code(task: Task, policy: Policy) -> None:
    """Refuse a strategy that is a plug-in, unless the policy lists its package: to know what it asks it is loaded."""
    require_plug_in(policy, Kind.STRATEGY, task.strategy, STRATEGIES)


def require_as_named(task: Task) -> None:
    """Refuse a task that trains, keeps or adapts anything else than its strategy does."""
    allowed = asks_of(task)
    if Ask(frozenset(task.trains), frozenset(task.keeps), task.adapter.kind) in allowed:
        return
    named = " or ".join(_said(ask.trains, ask.keeps, ask.kind) for ask in allowed) or "nothing that this version knows"
    raise Refusal(
        Code.STRATEGY_ASKS_MORE,
        f"the task is called {task.strategy} but {_said(task.trains, task.keeps, task.adapter.kind)}; in its round "
        f"{task.round} {task.strategy} {named}. Allow the strategy that it really is in the policy, or list none by "
        "name.",
    )


def _said(trains: Collection[Factor], keeps: Collection[Factor], kind: str) -> str:
    kept = f", keeps {', '.join(sorted(keeps))}" if keeps else ""
    return f"trains {', '.join(sorted(trains)) or 'nothing'}{kept} of a {kind} adapter"
