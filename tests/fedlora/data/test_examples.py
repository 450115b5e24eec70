"""Padding under privacy: a length is a function of the text's own, and what is rehearsed is what will be met."""

from __future__ import annotations

import pytest
import torch

from fedlora.data.examples import COMPANIES, Examples
from fedlora.tasks.inputs.padding import public_length
from tests.token_examples import CLASSIFICATION, Words, token_examples, token_ids


@pytest.mark.parametrize("most", [2, 5, 8, 16, 48, 100, 512])
def test_public_lengths_hold_the_text_and_waste_at_most_a_quarter(most):
    lengths = [public_length(tokens, most=most) for tokens in range(1, most + 1)]
    assert all(tokens <= length <= most for tokens, length in enumerate(lengths, 1))
    assert lengths == sorted(lengths)
    assert all(length < tokens + max(8, tokens / 4) for tokens, length in enumerate(lengths, 1))
    assert len(set(lengths)) <= 8 + 4 * max(0, most.bit_length() - 6)


def test_a_batch_is_padded_to_the_length_asked_for_and_never_cut():
    examples = token_examples([torch.tensor([4, 5, 6]), torch.tensor([7])], torch.tensor([0, 1]), 9)
    assert examples.batch([1], length=3)["input_ids"].tolist() == [[7, 9, 9]]
    assert examples.batch([1], length=3)["attention_mask"].tolist() == [[1, 0, 0]]
    assert examples.batch([0, 1], length=2)["input_ids"].tolist() == [[4, 5, 6], [7, 9, 9]]
    assert examples.shapes(most=16) == [8, 8]


@pytest.mark.parametrize("most", [2, 3, 8, 9, 48, 64, 65, 200])
def test_invented_texts_have_the_shapes_of_the_data_full_length_and_no_padding_token(most):
    model = Words(30)
    texts = Examples(CLASSIFICATION.sample(model, longest=most, padding=3), CLASSIFICATION, 3)
    shapes = texts.shapes(most=most)
    for company in COMPANIES:
        assert len({shapes[row] for row in company}) == 1
    long = [texts.lengths[row] for row in COMPANIES[1]]
    assert long[0] == long[1] == most
    assert long[2] < most or public_length(most - 1, most=most) < most
    assert not any(bool((row == 3).any()) or int(row.max()) >= 30 for row in token_ids(texts))
    assert not torch.equal(token_ids(texts)[3], token_ids(texts)[4]) or most < 3
