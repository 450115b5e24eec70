"""The summary of how updates were packed: which codecs were chosen, and what was lost."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedlora.wire.packing import Packing
from server.record.records import RoundRecord


def packing_summary(rounds: Iterable[Sequence[RoundRecord]]) -> dict[str, Any]:
    """Of all federations' rounds: how many updates went in which codec and density, and what error they reported."""
    clients = [client for records in rounds for record in records for client in record.clients]
    packings = [client.packing for client in clients if client.packing is not None]
    if not packings:
        return {}
    errors = [packing.error for packing in packings]
    return {
        "packing": dict(sorted(Counter(map(name_of, packings)).items())),
        "packing_error": statistics.fmean(errors),
        "packing_error_max": max(errors),
    }


def packed_as(summary: Mapping[str, Any]) -> str:
    """The summary as a sentence; empty if nothing was lost."""
    if not summary.get("packing_error_max"):
        return ""
    chosen = ", ".join(f"{name} ({count})" for name, count in summary["packing"].items())
    mean, most = summary["packing_error"], summary["packing_error_max"]
    return f"Packed as {chosen}, which lost {mean:.2f} of an update's norm on average, at most {most:.2f}. "


def name_of(packing: Packing) -> str:
    """Codec and density, in words."""
    return packing.codec + ("" if packing.density == 1 else f" at {packing.density:.3g}")
