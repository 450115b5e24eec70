"""Whether methods differ: intervals that a reader can check, on figures that a test writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from simulations.by_example import FILE, ByExample, read_each
from simulations.comparing.finished import Run
from simulations.comparing.paired import over_examples, over_seeds, pair, resampled, resampled_slowly
from simulations.comparing.rows import Row, row_of
from simulations.comparing.tables import latex, markdown, pair_cells


def row(tmp_path: Path, method: str, right: dict[int, list[int]], *, digest: str = "d") -> Row:
    """A method whose runs got these test examples right, by seed."""
    runs = []
    for seed, each in right.items():
        folder = tmp_path / f"{method}-{seed}"
        folder.mkdir()
        content = {"digest": digest, "figures": {"accuracy": [[one, 1] for one in each]}}
        (folder / FILE).write_text(json.dumps(content))
        summary = {
            "accuracy": sum(each) / len(each), "loss": 1.0, "aggregation_error_max": None, "bytes_up": 0,
            "bytes_down": 0, "seconds": 1,
        }  # fmt: skip
        runs.append(Run(method, "", seed, folder, summary))
    return row_of(method, "", runs)


def examples(right: int, n: int = 100) -> list[int]:
    return [1] * right + [0] * (n - right)


def test_the_bootstrap_is_that_of_drawing_examples_one_by_one():
    values = np.column_stack([*np.random.default_rng(3).random((3, 40)), np.ones(40)])
    values[:, 1] += 1
    fast, slow = resampled(values, np.random.default_rng(1)), resampled_slowly(values, np.random.default_rng(2))
    assert fast.mean() == pytest.approx(slow.mean(), abs=4 * slow.std() / len(slow) ** 0.5 * 2**0.5)
    assert fast.std() == pytest.approx(slow.std(), rel=0.1)
    assert stats.ks_2samp(fast, slow).pvalue > 1e-3


def test_its_interval_is_the_normal_one_of_paired_differences():
    """10 of 100 examples that only the one gets right: 0.1 ± 1.96 sqrt(0.1 · 0.9 / 100)."""
    one, other = (ByExample("d", {"accuracy": np.array([[v, 1.0] for v in examples(right)])}) for right in (60, 50))
    low, high = over_examples([(one, other)], "accuracy")
    assert (low, high) == (pytest.approx(0.1 - 0.0588, abs=0.012), pytest.approx(0.1 + 0.0588, abs=0.012))
    assert over_examples([(one, None)], "accuracy") is None
    assert over_examples([(one, ByExample("another", other.figures))], "accuracy") is None


def test_the_interval_of_seeds_is_student_s_and_none_of_two():
    apart = np.array([0.01, 0.02, 0.03, 0.02, 0.02])
    ours, theirs = apart + 0.7, np.full(5, 0.7)
    interval = stats.ttest_rel(ours, theirs).confidence_interval()
    assert over_seeds(apart) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert over_seeds(apart[:2]) is None


def test_a_method_is_better_only_where_other_examples_and_other_seeds_say_so(tmp_path):
    base = row(tmp_path, "base", {seed: examples(50) for seed in range(5)})
    far = row(tmp_path, "far", {seed: examples(70 + seed % 2) for seed in range(5)})
    near = row(tmp_path, "near", {seed: examples(50 + shift) for seed, shift in enumerate((9, -8, 9, -8, 1))})
    small = row(tmp_path, "small", {seed: examples(51) for seed in range(5)})
    assert (pair(far, base).says, pair(base, far).says, pair(far, base).won) == ("better", "worse", 5)
    assert pair(near, base).says == "cannot be told apart", "seeds go both ways"
    seen = pair(small, base)
    assert seen.by_seeds == (pytest.approx(0.01), pytest.approx(0.01)), "every seed says so"
    assert (seen.by_test_set[0], seen.says) == (0.0, "cannot be told apart"), "one example does not"


def test_two_seeds_say_nothing_and_neither_do_other_test_sets(tmp_path):
    few = row(tmp_path, "few", {0: examples(90), 1: examples(90)})
    base = row(tmp_path, "base", {seed: examples(50) for seed in range(5)})
    other = row(tmp_path, "other", {seed: examples(90) for seed in range(5)}, digest="x")
    assert pair(few, base).says == "two seeds say nothing"
    assert pair(other, base).by_test_set is None
    assert pair(row(tmp_path, "one", {7: examples(1)}), base).says == "no seed in common"


def test_figures_that_cannot_be_read_are_not_known(tmp_path):
    for damage in ("", "[]", '{"digest": "d"}', '{"digest": "d", "figures": {"accuracy": [[1, 1], [1]]}}'):
        (tmp_path / FILE).write_text(damage)
        assert read_each(tmp_path) is None


def test_tables_for_a_paper_and_for_a_page(tmp_path):
    base = row(tmp_path, "a_b", {seed: examples(50) for seed in range(3)})
    far = row(tmp_path, "x|y", {seed: examples(70) for seed in range(3)})
    table = [pair_cells(pair(far, base), base.metric)]
    assert "| x\\|y | a_b | 3 | +0.2000 |" in markdown(table)
    assert r"x|y & a\_b & 3 & +0.2000" in latex(table)
    assert latex(table).count("&") == 2 * (len(table[0]) - 1)
