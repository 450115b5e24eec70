"""ROUGE-L is rouge-score's for English, and knows the letters of other languages."""

from __future__ import annotations

import pytest

from fedlora.tasks.answering.overlap import exact_match, longest_common, rouge_l, words_of

BY_ROUGE_SCORE = [
    ("You may build a shed of up to 10 m2 without asking.", "A shed of up to 10 m2 needs no permit.", 0.636364),
    ("permit no needs", "no permit is needed", 0.285714),
    ("The cat sat on the mat", "the CAT, on a mat: sat", 0.666667),
    ("a b c a b c", "a c b a", 0.6),
    ("yes", "no", 0.0),
]
"""`rouge_scorer.RougeScorer(["rougeL"]).score(reference, answer)["rougeL"].fmeasure` of rouge-score 0.1.2."""


@pytest.mark.parametrize(("answer", "reference", "expected"), BY_ROUGE_SCORE)
def test_rouge_l_is_what_rouge_score_says_of_english(answer, reference, expected):
    assert rouge_l(answer, reference) == pytest.approx(expected, abs=1e-6)
    assert rouge_l(reference, answer) == rouge_l(answer, reference)


def test_letters_of_any_script_are_words_and_the_same_text_is_one():
    assert words_of("När då? 10 m², _так_") == ["när", "då", "10", "m²", "так"]
    assert rouge_l("när då", "när så") == 0.5  # rouge-score has n, r and d of it: two thirds
    assert rouge_l("när då", "när då") == 1.0
    assert exact_match("när  då\n", "när då")


def test_the_common_subsequence_is_the_longest_in_the_order_of_both():
    assert longest_common("abcbdab", "bdcaba") == 4
    assert longest_common("", "ab") == longest_common("ab", "") == 0
