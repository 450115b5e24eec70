"""What a site's log says of its texts: how long they are and how many a run cuts; none is read to its end for it."""

from __future__ import annotations

from fedlora.config import ModelSettings
from fedlora.data.examples import encoded
from fedlora.data.lengths import said_of_cutting
from fedlora.data.row import text_row
from fedlora.models.base import load_processor

LABELS = ("bad", "good")


def test_only_what_is_longer_than_the_limit_is_cut(tiny_model):
    """With [CLS] and [SEP] the texts have 5, 8, 8 and 9 tokens; the last label is none of the run's."""
    on = ModelSettings(id=tiny_model, max_tokens=8)
    processor = load_processor(on)
    words = ((3, "good"), (6, "bad"), (6, "secret"), (7, "good"))
    rows = [text_row(" ".join(["crew"] * count), label) for count, label in words]
    cut = encoded(rows, LABELS, processor, on=on, ignore_unusable=True)
    assert said_of_cutting(rows, cut, processor, on=on) == (
        "50/90/95/99 % have at most 8/8/8/8 tokens; 1 of 4 (25 %) are cut at model.max_tokens=8; 1 have nothing to "
        "learn"
    )
