"""Which texts train, test or are held out: uniform, keyed, and never moved by another one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlora.config import DataSettings, Recipe
from fedlora.data.membership import first_of, held_out, key_of, place, split
from fedlora.settings import SettingsError, parse
from strategies.compatibility import case_of, require_compatible

KEYS = st.binary(min_size=32, max_size=32)
TEXTS = st.lists(st.text(max_size=4), min_size=1, max_size=25, unique=True)


@given(KEYS, TEXTS, st.text(max_size=4), st.floats(0.01, 0.6), st.none() | st.floats(0.01, 0.4))
def test_one_text_moves_at_most_one_training_text(key, texts, more, test_fraction, train_fraction):
    def trained(given: list[str]) -> set[str]:
        train, test = split(given, key, test_fraction=test_fraction, train_fraction=train_fraction)
        assert not set(train) & set(test)
        assert len(test) >= bool(given)
        return {given[index] for index in train}

    assert len(trained(texts) ^ trained([text for text in [*texts, more] if text != texts[0]])) <= 2
    assert len(trained(texts) ^ trained(list(dict.fromkeys([more, *texts])))) <= 1
    assert len(trained(texts) ^ trained(texts[1:])) <= 1
    assert trained(texts) == trained(texts[::-1])


@given(KEYS, TEXTS, st.text(max_size=4), st.integers(1, 10))
def test_one_text_moves_at_most_one_of_those_that_are_not_held_out(key, texts, more, count):
    def ours(given: list[str]) -> set[str]:
        chosen = held_out(given, count, key)
        assert len(chosen) == min(count, len(set(given)))
        return set(given) - chosen

    assert len(ours(texts) ^ ours([*texts, more])) <= 1


@given(KEYS, TEXTS, st.text(max_size=4), st.floats(0.01, 0.99))
def test_a_held_out_share_is_decided_text_by_text(key, texts, more, share):
    """But for the text with the smallest u, which is held out whatever the share."""
    chosen = held_out(texts, share, key)
    alone = {text for text in set(texts) if place(text, key, "held out") < share}
    assert chosen >= alone
    assert len(chosen - alone) <= (not alone)
    assert len((set(texts) - chosen) ^ ({*texts, more} - held_out([*texts, more], share, key))) <= 1


def test_a_share_is_that_share_and_a_number_that_number():
    texts = [f"text {number}" for number in range(2000)]
    assert 150 < len(held_out(texts, 0.1, key_of(0))) < 250
    assert len(held_out(texts, 100, key_of(0))) == 100
    assert held_out(texts, 100, key_of(0)) < held_out(texts, 0.1, key_of(0)) < held_out(texts, 0.2, key_of(0))
    assert len(held_out(texts[:3], 1e-9, key_of(0))) == 1


def test_a_number_stays_a_whole_number_where_it_is_written_down():
    written = [parse(DataSettings, {"held_out": value}).model_dump(mode="json")["held_out"] for value in (20, 0.2, 2e1)]
    assert [repr(value) for value in written] == ["20", "0.2", "20"]


@pytest.mark.parametrize("value", [0, -3, 1.0, 0.0, 1.5, True, "10%", None, float("nan"), float("inf"), [0.1]])
def test_what_is_neither_a_share_nor_a_number_is_refused(value):
    with pytest.raises(SettingsError, match=r"data\.held_out: give a share between 0 and 1, such as 0\.1, or a whole"):
        parse(Recipe, {"data": {"held_out": value}})


def test_the_place_of_a_text_is_uniform_and_of_its_own_for_every_key_and_purpose():
    texts = [f"text {number}" for number in range(10_000)]
    places = [place(text, key_of(0), "test") for text in texts]
    assert all(0 <= u < 1 for u in places)
    for tenth in range(10):
        assert 900 < sum(tenth / 10 <= u < (tenth + 1) / 10 for u in places) < 1100
    for others in ([place(t, key_of(1), "test") for t in texts], [place(t, key_of(0), "client") for t in texts]):
        assert 200 < sum(u < 0.15 and v < 0.15 for u, v in zip(places, others, strict=True)) < 250


def test_a_fraction_of_a_fraction_of_the_same_texts():
    texts = [f"text {number}" for number in range(1000)]
    all_of_them, tests = split(texts, key_of(0), test_fraction=0.1)
    fewer, same = split(texts, key_of(0), test_fraction=0.1, train_fraction=0.3)
    assert tests == same
    assert set(fewer) < set(all_of_them)
    assert 250 < len(fewer) < 350
    assert first_of(texts, None, key_of(0)) == list(range(1000))
    assert set(first_of(texts, 10, key_of(0))) < set(first_of(texts, 20, key_of(0)))


def begin(values):
    require_compatible(case_of(parse(Recipe, values)))


def test_a_number_of_examples_and_example_level_privacy_exclude_each_other():
    for privacy in ({"epsilon": 3.0}, {"noise_multiplier": 1.0}):
        with pytest.raises(SettingsError, match=r"data\.max_examples and example-level .* Use data\.train_fraction"):
            begin({"data": {"max_examples": 10}, "privacy": privacy})
    begin({"data": {"train_fraction": 0.1}, "privacy": {"epsilon": 3.0}})
    begin({"data": {"max_examples": 10}})


def test_more_than_all_examples_cannot_be_asked_for():
    with pytest.raises(SettingsError, match=r"test_fraction 0\.5 and train_fraction 0\.6 are more than all"):
        parse(Recipe, {"data": {"test_fraction": 0.5, "train_fraction": 0.6}})
    assert parse(Recipe, {"data": {"test_fraction": 0.7, "train_fraction": 0.3}}).data.train_fraction == 0.3
