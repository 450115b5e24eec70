"""What a person is told of the codecs that were chosen, and of what they lost."""

from __future__ import annotations

from fedlora.wire.packing import Packing
from server.record.packing_summary import packed_as, packing_summary
from server.record.records import ClientRecord, RoundRecord


def round_of(*packings: tuple[str, float, float] | None) -> RoundRecord:
    made = [packing and Packing(codec=packing[0], density=packing[1], error=packing[2]) for packing in packings]
    clients = tuple(ClientRecord("site", 1, "trained", packing=packing) for packing in made)
    return RoundRecord(1, clients, None, None, base_version=0, seconds=1.0)


def test_choices_are_counted_and_errors_averaged():
    first = [round_of(("sign", 1.0, 0.5), ("int4", 1 / 16, 0.7)), round_of(None)]
    second = [round_of(("sign", 1.0, 0.6))]
    summary = packing_summary([first, second])
    assert summary["packing"] == {"int4 at 0.0625": 1, "sign": 2}
    assert abs(summary["packing_error"] - 0.6) < 1e-9
    said = packed_as(summary)
    assert (
        said == "Packed as int4 at 0.0625 (1), sign (2), which lost 0.60 of an update's norm on average, at most 0.70. "
    )


def test_nothing_is_said_where_nothing_was_lost_or_nobody_has_sent():
    assert packed_as(packing_summary([[round_of(("fp32", 1.0, 0.0))]])) == ""
    assert packed_as(packing_summary([[round_of()]])) == ""
