"""Outcomes of a client's round, shared by records, rows and pages."""

from __future__ import annotations

from typing import Literal

Outcome = Literal["trained", "refused", "failed", "late"]
