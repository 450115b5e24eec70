"""Precision, recall, F1 and calibration against scikit-learn's report and against a reader's own sums."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import classification_report, confusion_matrix

from fedlora.results.judging.class_report import ClassReport, class_report
from fedlora.results.judging.figures import difference, figure
from fedlora.tasks.base import Mean

LABELS = ("a", "b", "c", "d")


def probabilities(draw: np.random.Generator, rows: int, classes: int = len(LABELS)) -> np.ndarray:
    return draw.dirichlet(np.full(classes, 0.5), size=rows)


def require_equal(ours: ClassReport, theirs: dict) -> None:
    """To 1e-12, every number of scikit-learn's report."""
    mine = {**ours.classes, "macro avg": ours.macro, "weighted avg": ours.weighted}
    assert theirs.keys() - {"accuracy", "micro avg"} == mine.keys()
    for name, one in mine.items():
        expected = [theirs[name][key] for key in ("precision", "recall", "f1-score", "support")]
        assert [one.precision, one.recall, one.f1, one.rows] == pytest.approx(expected, abs=1e-12)


@settings(max_examples=40)
@given(rows=st.integers(1, 60), seed=st.integers(0, 10_000), missing=st.booleans())
def test_it_is_scikit_learn_s_report_also_where_a_class_is_never_said_or_never_is(rows, seed, missing):
    draw = np.random.default_rng(seed)
    said = probabilities(draw, rows)
    if missing:
        said[:, 2] = 0
    truth = draw.integers(0, 2 if missing else len(LABELS), size=rows).tolist()
    numbers = range(len(LABELS))
    found = class_report(said, truth, LABELS)
    theirs = classification_report(
        truth, said.argmax(-1), labels=numbers, target_names=LABELS, output_dict=True, zero_division=0
    )
    require_equal(found, theirs)
    assert found.confusion == tuple(map(tuple, confusion_matrix(truth, said.argmax(-1), labels=numbers).tolist()))
    assert found.accuracy == pytest.approx(float(np.mean(said.argmax(-1) == truth)), abs=1e-12)


def test_who_says_what_is_true_as_often_as_it_says_is_calibrated():
    sure = np.array([[0.75, 0.25]] * 4)
    assert class_report(sure, [0, 0, 0, 1], LABELS[:2]).calibration_error == 0
    assert class_report(sure, [0, 0, 0, 0], LABELS[:2]).calibration_error == pytest.approx(0.25)
    both = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    assert class_report(both, [0, 1, 1, 1], LABELS[:2]).calibration_error == pytest.approx((2 * 0.4 + 2 * 0.4) / 4)


def test_the_error_of_a_mean_is_the_sample_s_over_the_root_of_its_rows():
    values = [0.0, 1.0, 1.0, 0.5, 3.0]
    found = figure([Mean(value, 1) for value in values])
    assert (found.value, found.error) == pytest.approx((np.mean(values), stats.sem(values)))
    assert figure([Mean(1.0, 1)]).error is None


def test_the_error_of_a_mean_over_tokens_is_that_of_rows_drawn_anew():
    """Against 4,000 sets of rows drawn from the same source."""
    draw = np.random.default_rng(0)

    def rows(count: int) -> list[Mean]:
        tokens = draw.integers(1, 30, size=count)
        return [
            Mean(float(number * each), int(number))
            for number, each in zip(tokens, draw.normal(2, 1, count), strict=True)
        ]

    drawn = [figure(rows(80)).value for _ in range(4000)]
    assert figure(rows(80)).error == pytest.approx(np.std(drawn), rel=0.2)


def test_two_models_on_the_same_rows_differ_by_what_they_differ_on_each():
    draw = np.random.default_rng(0)
    hard = draw.normal(size=50)
    ours, theirs = [Mean(one + 0.1, 1) for one in hard], [Mean(float(one), 1) for one in hard]
    found = difference(ours, theirs)
    assert (found.value, found.error) == pytest.approx((0.1, 0.0), abs=1e-12)
    assert figure(ours).error > 0.1
