"""Limits on what one client may send to the coordinator; more is rejected before it is decoded, at no cost to other
clients."""

from __future__ import annotations

from pydantic import Field

from fedlora.settings import Settings


class QuotaSettings(Settings):
    """Quotas per client at the coordinator. None: only the message schema's largest size applies."""

    bytes_per_round: int | None = Field(None, ge=1)
    """Largest number of bytes of one client's answers in a round (`fedlora wire plan` shows how many an honest client
    needs)."""

    bytes_per_run: int | None = Field(None, ge=1)
    """Largest number of bytes of one client's answers in the whole run, including resumed parts; counted from
    rounds.jsonl."""

    answers_per_minute: int | None = Field(None, ge=1)
    """Largest number of answers of one client in any 60 seconds, usable or not."""
