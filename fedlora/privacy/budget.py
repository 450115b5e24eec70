"""The budgets of one dataset, held against what a task would add: the run's, the period's, the lifetime's, and δ.

Each either returns or raises a Refusal; nothing is charged here. What is refused depends on the ledger, the policy and
the public size, never on the examples.
"""

from __future__ import annotations

import time

from fedlora.privacy.calibration import size_bound
from fedlora.privacy.policy import DatasetPolicy
from fedlora.privacy.refusal import Code, Refusal
from fedlora.privacy.spending import Spending
from fedlora.protocol.task import Task

DAY_S = 86_400.0


def require_within_budget(
    task: Task, spending: Spending, bounds: DatasetPolicy, *, target: float | None, dataset: str
) -> None:
    """Refuse a task above the rounds or the ε of its run, or above the ε of the dataset's period or life."""
    if spending.participations >= task.rounds:
        raise Refusal(
            Code.PARTICIPATION_CAP,
            f"run {task.run} has charged this dataset {spending.participations} times and σ was calibrated for "
            f"{task.rounds}; start a new run with more rounds or more privacy.spare_rounds.",
        )
    if spending.began_elsewhere:
        raise Refusal(
            Code.PARTICIPATION_CAP,
            f"run {task.run} has charged these rows under another dataset name, so its remaining budget for "
            f"{dataset} is unknown; take part in the next run.",
        )
    run = spending.run_epsilon(task.privacy.delta)
    if target is not None and run > target:
        raise Refusal(
            Code.BUDGET_EXHAUSTED,
            f"this task would take run {task.run} to epsilon {run:.3f}, above its target {target}; start a new run.",
        )
    _require_within_period(task, spending, bounds, dataset)
    _require_within_life(task, spending, bounds, dataset)


def _require_within_period(task: Task, spending: Spending, bounds: DatasetPolicy, dataset: str) -> None:
    """By this site's clock. One that was put back makes older charges count too: the refusals come too early then."""
    most = bounds.epsilon_per_period
    if most is None:
        return
    spent = spending.epsilon_since(time.time() - bounds.period_days * DAY_S, spending.counted_at(bounds, task))
    if spent > most:
        raise Refusal(
            Code.BUDGET_EXHAUSTED,
            f"this task would take the dataset {dataset} to epsilon {spent:.3f} within {bounds.period_days:g} days, "
            f"all runs and coordinators together, above its epsilon_per_period {most}; wait, or change the policy.",
        )


def _require_within_life(task: Task, spending: Spending, bounds: DatasetPolicy, dataset: str) -> None:
    assert bounds.epsilon_budget is not None
    delta = spending.counted_at(bounds, task)
    lifetime = spending.lifetime_epsilon(delta)
    if lifetime > bounds.epsilon_budget:
        raise Refusal(
            Code.BUDGET_EXHAUSTED,
            f"this task would take the dataset {dataset} to epsilon {lifetime:.3f} at delta {delta}, above its "
            f"epsilon_budget {bounds.epsilon_budget}; fewer rounds, more noise, or a larger budget in the site's "
            "policy.",
        )


def require_delta_below(delta: float, examples: int, *, declared: int | None) -> None:
    """δ < 1 / n, without telling n: whoever sends task after task would find it by where the refusals begin.

    By the declared size alone where there is one (the doctor holds it against the file), else by the public ladder.
    """
    most = declared if declared is not None else size_bound(examples)
    if delta * most >= 1:
        raise Refusal(
            Code.DELTA_TOO_LARGE,
            f"delta {delta} is not below 1 / (number of examples) of this site, which is taken as "
            f"{most}; lower privacy.delta.",
        )
