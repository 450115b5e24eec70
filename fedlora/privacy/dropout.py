"""Dropout is refused in private tasks; this check needs nothing loaded."""

from __future__ import annotations

from fedlora.privacy.refusal import Code, Refusal


def require_no_dropout(dropout: float) -> None:
    """Refuse a private task's `adapter.dropout` above 0; needs neither model nor data."""
    if dropout > 0:
        raise Refusal(
            Code.DROPOUT,
            f"adapter.dropout is {dropout}, but private steps train without dropout: its masks would make every "
            "example's gradient depend on the other examples drawn; set adapter.dropout to 0.",
        )
