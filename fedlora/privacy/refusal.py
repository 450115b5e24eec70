"""Typed refusals: what a site answers instead of training. The code travels; the text stays at the site."""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """Reasons of a refusal. Codes contain no number and no text from the site: they are all that the coordinator
    sees."""

    UNSUPPORTED_MODEL = "private-engine-unsupported"
    """The model trains or couples examples in a way that does not allow the engine to bound one example's influence."""

    DROPOUT = "private-dropout"
    """The task sets dropout in the adapter: its masks make an example's gradient depend on the other examples drawn."""

    PRIVATE_COUNT = "private-count"
    """The task asks for a number that follows from the site's rows: steps by epochs, or its tokens as a weight."""

    TOO_MANY_STEPS = "private-steps-exceeded"
    """More steps were asked of the engine than were charged."""

    NO_POLICY = "policy-missing"
    PRIVACY_REQUIRED = "privacy-required"
    STRATEGY_NOT_ALLOWED = "strategy-not-allowed"
    STRATEGY_ASKS_MORE = "strategy-asks-more"
    """The task trains, keeps or adapts something else than the strategy that it names."""

    PLUG_IN_NOT_ALLOWED = "plug-in-not-allowed"
    """The task names code that is not fedlora's and that the policy does not list."""

    BASE_NOT_ALLOWED = "base-model-not-allowed"
    WRONG_BASE = "wrong-base-model"
    """The site's copy of the task's base model differs from the coordinator's."""

    BASE_HELD_OTHERWISE = "base-held-otherwise"
    """The site holds bases in another form (`load_dtype`) than the run and than any that it allows beside it."""

    COORDINATOR_NOT_ALLOWED = "coordinator-not-allowed"
    NOISE_TOO_SMALL = "noise-multiplier-too-small"
    CLIP_TOO_LARGE = "clip-too-large"
    DELTA_TOO_LARGE = "delta-too-large"
    INSECURE_NOISE = "insecure-noise-not-allowed"
    METRICS_NOT_ALLOWED = "metrics-not-allowed"
    PARTICIPATION_CAP = "participation-cap-reached"
    BUDGET_EXHAUSTED = "budget-exhausted"
    BUDGET_UNREACHABLE = "budget-unreachable"
    """No noise multiplier in the accepted range meets the target ε."""

    LEDGER_DAMAGED = "ledger-damaged"
    LEDGER_BUSY = "ledger-busy"
    """Another process at the site keeps the ledger locked."""

    TOO_FEW_EXAMPLES = "too-few-examples"
    TOO_MANY_UNUSABLE = "too-many-unusable"
    """More of the site's rows are unusable than it allows: the file is probably wrong."""

    CLASSES_NOT_DECLARED = "classes-not-declared"
    """The task lacks a class that the site declares: examples of it would be left out silently."""

    ANOTHER_TASK = "data-for-another-task"
    """The site's data are for something else than the task trains: texts with classes, say, and not questions."""

    KNOWN_DATA = "data-known-under-another-name"
    """These examples were charged to another dataset of this site: under a new name their spending would not be
    counted."""


class Refusal(Exception):  # noqa: N818 - an answer of the site, not an error
    """The site will not do this. `code` may leave the site; the message names the bound and the way out, and may not.

    >>> print(Refusal(Code.CLIP_TOO_LARGE, "clip 5.0 exceeds the policy's max_clip 1.0; lower privacy.clip."))
    clip-too-large: clip 5.0 exceeds the policy's max_clip 1.0; lower privacy.clip.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
