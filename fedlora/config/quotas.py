"""What one client may send to the coordinator; more is rejected before it is decoded, and costs nobody else."""

from __future__ import annotations

from pydantic import Field

from fedlora.settings import Settings


class QuotaSettings(Settings):
    """Per-client quotas at the coordinator. None: no quota but the largest message of the schema."""

    bytes_per_round: int | None = Field(None, ge=1)
    """Most bytes of one client's answers in a round (`fedlora wire plan` says how many an honest one needs)."""

    bytes_per_run: int | None = Field(None, ge=1)
    """Most bytes of one client's answers over the whole run, resumes included; counted as recorded in rounds.jsonl."""

    answers_per_minute: int | None = Field(None, ge=1)
    """Most answers of one client in any 60 seconds, usable or not."""
