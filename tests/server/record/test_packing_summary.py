"""What a person is told of the codecs that were chosen, and of what they lost."""

from __future__ import annotations

from server.record.packing_summary import packed_as, packing_summary


def client(codec: str, density: float, error: float) -> dict[str, object]:
    return {"packing": {"codec": codec, "density": density, "error": error}}


def test_choices_are_counted_and_errors_averaged():
    first = [{"clients": [client("sign", 1.0, 0.5), client("int4", 1 / 16, 0.7)]}, {"clients": [{"packing": None}]}]
    second = [{"clients": [client("sign", 1.0, 0.6)]}]
    summary = packing_summary([first, second])
    assert summary["packing"] == {"int4 at 0.0625": 1, "sign": 2}
    assert abs(summary["packing_error"] - 0.6) < 1e-9
    said = packed_as(summary)
    assert said == "Packed as int4 at 0.0625 (1), sign (2), which lost 0.60 of an update, at most 0.70, in norm. "


def test_nothing_is_said_where_nothing_was_lost_or_nobody_has_sent():
    assert packed_as(packing_summary([[{"clients": [client("fp32", 1.0, 0.0)]}]])) == ""
    assert packed_as(packing_summary([[{"clients": []}]])) == ""
