"""The weight of an update by tokens: told where it was asked for, and no more than so many examples can have."""

from __future__ import annotations

from typing import Any

import pytest

from fedlora.protocol.task import Report
from server.replies.intake import require_weight
from server.replies.messages import BadReplyError
from tests.privacy.tasks import task


def report(**values: Any) -> Report:
    return Report.model_validate({"client": "a", "outcome": "trained", "round": 1, "examples": 10, **values})


def test_a_count_within_what_the_examples_can_have_is_taken():
    asked = task(weigh_by="tokens")
    for tokens in (1, 10 * asked.model.max_tokens):
        require_weight(report(tokens=tokens), asked)
    require_weight(report(), task())
    require_weight(report(outcome="refused", code="budget-exhausted", examples=0), asked)


@pytest.mark.parametrize(
    ("values", "weigh_by", "code"),
    [
        ({"tokens": 10**9}, "tokens", "tokens-out-of-range"),
        ({"tokens": 0}, "tokens", "tokens-out-of-range"),
        ({}, "tokens", "malformed-report"),
        ({"tokens": 5}, "examples", "malformed-report"),
    ],
)
def test_a_claim_that_would_own_the_mean_or_that_is_missing_is_refused(values, weigh_by, code):
    with pytest.raises(BadReplyError, match=code):
        require_weight(report(**values), task(weigh_by=weigh_by))
