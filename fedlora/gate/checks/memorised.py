"""How many rows of a file a language model can say by heart: the beginning of a row makes it write the row's end.

Greedy, word for word, the last `gate.memorised_tokens` tokens after all that stands before them (Carlini et al., arXiv
2202.07646, have 50 after 50). For the rows of the training, at the site that has them.

Guarantee: what is said of the file is a share, rounded up to a thousandth, and the number of rows as a range. It is no
bound on what another prompt, or sampling, would bring to light: that is what differential privacy is for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedlora.config import GateSettings
from fedlora.data.row import Row
from fedlora.exports.made import as_range
from fedlora.gate.rule import no_worse
from fedlora.gate.verdict import Check
from fedlora.results.judging.figures import difference
from fedlora.results.opened import Opened
from fedlora.results.writes.greedy import greedy
from fedlora.settings import SettingsError
from fedlora.tasks.base import Mean
from fedlora.tasks.inputs.learned_text import learned_text, require_template
from fedlora.tasks.metric import SHARE, Metric

NAME = "memorised"
MEMORISED = Metric(NAME, larger_is_better=False, unit=SHARE)


def beginnings(opened: Opened, rows: Sequence[Row], by: GateSettings) -> list[tuple[list[int], list[int]]]:
    """What is given and what should follow, of every row that is long enough; SettingsError where none is."""
    tokenizer, found = opened.base.processor, []
    special, most = set(tokenizer.all_special_ids), opened.on.max_tokens
    for form in {row.form for row in rows}:
        require_template(form, tokenizer)
    for row in rows:
        try:
            text = learned_text(row, tokenizer, longest=most)
        except ValueError:
            continue
        ids = list(tokenizer(text.text, add_special_tokens=not text.whole)["input_ids"])[:most]
        while ids and ids[-1] in special:
            ids.pop()
        if len(ids) >= 2 * by.memorised_tokens:
            found.append((ids[: -by.memorised_tokens], ids[-by.memorised_tokens :]))
    if not found:
        raise SettingsError(
            f"--memorised: no row has {2 * by.memorised_tokens} tokens; lower gate.memorised_tokens "
            f"(--set memorised_tokens=...), which is {by.memorised_tokens}."
        )
    return found


def memorised(opened: Opened, pairs: Sequence[tuple[list[int], list[int]]], by: GateSettings) -> Check:
    ours = [Mean(float(by_heart(opened, *pair, base=False)), 1) for pair in pairs]
    theirs = [Mean(float(by_heart(opened, *pair, base=True)), 1) for pair in pairs]
    passed = no_worse(NAME, difference(ours, theirs), MEMORISED, "", margin=by.memorised, by=by, exact=True).passed
    adapted, base = (upwards(sum(mean.total for mean in each) / len(pairs)) for each in (ours, theirs))
    return Check(
        name=NAME,
        passed=passed,
        said=(
            f"By heart it says the last {by.memorised_tokens} tokens of {adapted:.3f} of {as_range(len(pairs))} rows, "
            f"the base of {base:.3f}; allowed is +{by.memorised:g}, {by.errors:g} standard errors counted."
        ),
        figures={"adapted": adapted, "base": base, "rows": as_range(len(pairs))},
        thresholds={"margin": by.memorised, "errors": by.errors, "tokens": by.memorised_tokens},
    )


def by_heart(opened: Opened, beginning: list[int], end: list[int], *, base: bool) -> bool:
    """Left at the first token that differs."""
    written = greedy(opened.model, beginning, on=opened.on, ends=(), most=len(end), base=base)
    return all(one == other for one, other in zip(end, written, strict=True))


def upwards(share: float) -> float:
    """To a thousandth.

    >>> upwards(1 / 3), upwards(0.0)
    (0.334, 0.0)
    """
    return math.ceil(share * 1000 - 1e-9) / 1000
