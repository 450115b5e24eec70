"""Precision, recall and F1 of every class, who is taken for whom, and whether probabilities mean what they say.

    precision  right of those that were said          recall  right of those that are          F1  their harmonic mean

As scikit-learn's `classification_report` has them, to rounding: 0 where a class is never said, or never is.
Calibration (Guo et al., arXiv 1706.04599): rows in `BINS` bins by the probability of what was said; the expected
calibration error is the mean distance of a bin's mean probability to its share of right ones, weighted by its rows.
Shapes: n rows, c classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

BINS = 15
"""Guo et al.'s own."""


@dataclass(frozen=True)
class OfClass:
    """One class, or a mean over classes."""

    precision: float
    recall: float
    f1: float
    rows: int


@dataclass(frozen=True)
class ClassReport:
    """A set of rows."""

    classes: dict[str, OfClass]
    accuracy: float
    macro: OfClass
    """Every class counts alike."""
    weighted: OfClass
    """Every row counts alike."""
    confusion: tuple[tuple[int, ...], ...]
    """Rows of each class (first) that were said to be each class (second)."""
    calibration_error: float

    def as_json(self) -> dict[str, Any]:
        return {
            "classes": {name: asdict(of_class) for name, of_class in self.classes.items()},
            "macro": asdict(self.macro),
            "weighted": asdict(self.weighted),
            "confusion": {"labels": list(self.classes), "counts": [list(row) for row in self.confusion]},
            "calibration_error": self.calibration_error,
        }


def class_report(probabilities_nc: npt.NDArray[np.float64], truth: Sequence[int], labels: Sequence[str]) -> ClassReport:
    """`truth`: the number of each row's class. ValueError without rows."""
    if not len(truth):
        raise ValueError("there is no row to report on.")
    truth_n, said_n = np.asarray(truth), probabilities_nc.argmax(-1)
    confusion_cc = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(confusion_cc, (truth_n, said_n), 1)
    right_c, is_c, said_c = confusion_cc.diagonal(), confusion_cc.sum(1), confusion_cc.sum(0)
    precision_c, recall_c, f1_c = share(right_c, said_c), share(right_c, is_c), share(2 * right_c, said_c + is_c)
    each = [
        OfClass(float(precision), float(recall), float(f1), int(rows))
        for precision, recall, f1, rows in zip(precision_c, recall_c, f1_c, is_c, strict=True)
    ]
    return ClassReport(
        dict(zip(labels, each, strict=True)),
        float(right_c.sum() / len(truth_n)),
        mean_of(each, np.ones(len(labels))),
        mean_of(each, is_c),
        tuple(tuple(map(int, row)) for row in confusion_cc),
        calibration_error(probabilities_nc.max(-1), said_n == truth_n),
    )


def share(part_c: npt.NDArray[np.int64], whole_c: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """0 of nothing."""
    return np.divide(part_c, whole_c, out=np.zeros(len(part_c)), where=whole_c > 0)


def mean_of(each: Sequence[OfClass], weights_c: npt.NDArray[Any]) -> OfClass:
    def mean(name: str) -> float:
        return float(np.average([getattr(one, name) for one in each], weights=weights_c))

    return OfClass(mean("precision"), mean("recall"), mean("f1"), sum(one.rows for one in each))


def calibration_error(sure_n: npt.NDArray[np.float64], right_n: npt.NDArray[np.bool_]) -> float:
    """Expected calibration error, from 0 to 1.

    >>> calibration_error(np.array([0.75, 0.75, 0.75, 0.75]), np.array([True, True, True, False]))
    0.0
    """
    bins_n = np.minimum((sure_n * BINS).astype(int), BINS - 1)
    rows_k = np.bincount(bins_n, minlength=BINS)
    apart_k = np.abs(np.bincount(bins_n, sure_n, BINS) - np.bincount(bins_n, right_n, BINS))
    return float(apart_k[rows_k > 0].sum() / len(sure_n))
