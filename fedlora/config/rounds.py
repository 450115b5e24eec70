"""`rounds:` how many, who takes part, and how long to wait."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from fedlora.protocol.versions import Since
from fedlora.settings import Settings


class GenerateSettings(Settings):
    """Answers that the run's model writes by itself, to be compared with those of the test set."""

    examples: int = Field(24, ge=1)
    """Questions of the test set; all of them where there are fewer."""

    max_new_tokens: int = Field(64, ge=1, le=4096)
    """Longest answer, in tokens."""


class RoundSettings(Settings):
    """How many rounds, who takes part, and how long a round waits."""

    count: int = Field(10, ge=1)
    """Number of rounds."""

    fraction: float = Field(1.0, gt=0, le=1)
    """Share of the connected clients that each round asks."""

    quorum: float = Field(0.5, gt=0, le=1)
    """Share of the asked clients that must send a valid update; with fewer, the run stops and nothing is changed."""

    min_clients: int = Field(1, ge=1)
    """Wait for this many connected clients before a round starts."""

    wait_s: float = Field(600.0, gt=0)
    """Longest wait for `min_clients`, in seconds."""

    deadline_s: float = Field(3600.0, gt=0)
    """Longest wait for answers in one round, in seconds."""

    grace_s: float = Field(60.0, ge=0)
    """Extra time for the other clients after the quorum has answered, in seconds."""

    max_examples: int = Field(10_000_000, ge=1)
    """Largest number of examples that a client may claim; a larger claim is rejected, because it would dominate the
    average."""

    max_weight: int | None = Field(None, ge=1)
    """Upper limit on a client's weight in means weighted by examples: client k counts as min(n_k, max_weight), so that
    no site dominates the average. 1: all clients count the same. None: no limit."""

    max_update_norm: float = Field(1e4, gt=0)
    """Largest L2 norm of a decoded update; a larger update is rejected."""

    evaluate_every: int = Field(1, ge=1)
    """Evaluate the global adapter on the shared test set every this many rounds (and after the last)."""

    generate: Annotated[GenerateSettings | None, Since(2)] = None
    """Of causal-lm: generate answers to questions of the shared test set when the run is over, by its model and by the
    base; exact match and ROUGE-L go into summary.json, the answers into answers.jsonl. Not done when not given."""

    export_every: Annotated[int | None, Since(2)] = Field(None, ge=1)
    """Write the adapter of every so many rounds, and of the last, to a folder of its own, `peft_N` in the run's. None:
    the newest alone, in `adapter`."""

    def asked(self, connected: int) -> int:
        """How many of the connected clients a round asks."""
        return max(self.min_clients, math.ceil(self.fraction * connected))
