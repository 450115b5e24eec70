"""What `federate` refuses, and why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedlora.own_apps.records import Order
from fedlora.privacy.policy import Policy, load_policy
from fedlora.privacy.refusal import Code, Refusal
from fedlora.settings import SettingsError
from strategies.registry import STRATEGIES, build

WAYS_OUT = (
    "Run the same rows as a recipe, whose tasks have a loss of each example by itself and clip its gradient: "
    "model.task: causal-lm for SFT, preference for DPO, with privacy.epsilon (fedlora simulate faq-private)."
)


def not_private(trainer: Any) -> str:
    """Why the gradients that this trainer computes cannot be made private, and what to do."""
    why = [
        "its loss is one mean over the whole batch, divided by the number of all its tokens, so that the gradient of "
        "one example depends on which others were drawn and cannot be clipped by itself",
        "its batches are of a fixed size, and the noise is accounted for Poisson sampling",
    ]
    if getattr(trainer.args, "packing", False):
        why.append("packing puts several examples into one row, and attention reads across them")
    return f"{type(trainer).__name__} cannot train with differential privacy: {'; '.join(why)}. {WAYS_OUT}"


def policy_of(policy: Policy | str | Path | None) -> Policy | None:
    """The site's policy; None for somebody who has none."""
    return policy if policy is None or isinstance(policy, Policy) else load_policy(Path(policy))


def require_trainable(policy: Policy | None, trainer: Any) -> None:
    """Refusal where the site trains with privacy only."""
    if policy is not None and policy.require_privacy:
        raise Refusal(
            Code.PRIVACY_REQUIRED,
            f"the policy's require_privacy is true, and a {not_private(trainer)} Or, if these data need no privacy, "
            "set require_privacy: false in the policy.",
        )


def require_allowed(policy: Policy | None, order: Order) -> None:
    """Refusal of an order that the policy does not allow. Bases are not looked at: this one is the site's own choice,
    and no message can name another."""
    if policy is None:
        return
    if policy.strategies is not None:
        require_listed(policy.strategies, order)
    if policy.coordinators is not None:
        raise Refusal(
            Code.COORDINATOR_NOT_ALLOWED,
            "the policy lists coordinators, and a ServerApp of somebody's own has no name that can be verified: "
            "take `coordinators` out of the policy, or run a deployment (fedlora client up).",
        )


def require_listed(strategies: Sequence[str], order: Order) -> None:
    """A strategy that is listed, and that asks for what its name stands for and no more."""
    if order.strategy not in strategies or order.strategy not in STRATEGIES:
        raise Refusal(Code.STRATEGY_NOT_ALLOWED, f"{order.strategy} is not listed in the policy's strategies.")
    named = build(order.strategy, {})
    if not set(order.trains) <= named.trains(order.round) or not set(order.keeps) <= named.traits.keeps:
        raise Refusal(
            Code.STRATEGY_ASKS_MORE,
            f"the order is called {order.strategy} and trains {', '.join(order.trains)}, which {order.strategy} does "
            f"not in round {order.round}.",
        )


def refuse_privacy(privacy: object, trainer: Any) -> None:
    """SettingsError for whoever asks for privacy here: half of it would be none."""
    if privacy is not None:
        raise SettingsError(not_private(trainer))
