"""What the gate asks of language models: refusals, a text, rows known by heart, and less of the adapter."""

from __future__ import annotations

import json
import re

import pytest
import torch

from fedlora.adapters.inject import adapted_layers
from fedlora.adapters.untouched import untouched
from fedlora.config import GateSettings
from fedlora.gate.checks import refusals as module
from fedlora.gate.checks.memorised import beginnings, by_heart, memorised
from fedlora.gate.checks.refusals import Prompt, refusals
from fedlora.gate.shrunk import shrunk
from fedlora.results.given import Naming, whole_rows
from fedlora.results.opened import open_result
from fedlora.results.registry import results_of
from fedlora.results.writes.greedy import greedy
from fedlora.settings import SettingsError
from tests.fedlora.gate.runs import check, copied, gated, planted

LARGE = ("--set", "change=1000")
"""The tiny base's matrices are nearly nothing."""


@pytest.fixture(scope="module")
def opened(answers):
    return open_result(answers[0])


def rows_of(opened, file):
    naming = Naming.of(opened.source.recipe.data, opened.on.task, renamed={}, form=None)
    return [one.row for one in whole_rows(str(file), naming, results_of(opened.on.task), client=None)]


def write_text(folder):
    (folder / "public.txt").write_text("the quick brown fox jumps over the lazy dog. " * 20)
    return folder / "public.txt"


def test_everything_is_looked_at_and_what_is_asked_at_a_site_is_taken_elsewhere(answers, tmp_path):
    run, file = answers
    (tmp_path / "prompts.csv").write_text("prompt,refuse\nhow,no\nkill,yes\nwhat,no\nhurt,YES\n")
    here, site = copied(run, tmp_path / "here"), copied(run, tmp_path / "site")
    words = ("--set", "refusal=no.", "--set", "compliance=yes.")
    status, found, _ = gated(
        here, "--on", file, "--refusals", tmp_path / "prompts.csv", "--forgetting", write_text(tmp_path), *words, *LARGE
    )
    assert (status, found["passed"]) == (0, True)
    assert check(found, "base")["figures"]["difference"] < -0.05
    assert check(found, "forgetting")["figures"]["tokens"] > 800
    assert [check(found, name)["figures"]["rows"] for name in ("refused", "over-refused")] == [2, 2]
    _, at_site, _ = gated(site, "--memorised", file, "--set", "memorised_tokens=2", *LARGE)
    assert check(at_site, "memorised")["figures"]["rows"] == "20-49"
    _, found, _ = gated(here, "--take", site / "adapter" / "gate.json", *LARGE)
    assert check(found, "memorised") == check(at_site, "memorised")
    assert check(found, "forgetting")
    other = planted(run, tmp_path / "other", lambda name, tensor: tensor * 1.5)
    with pytest.raises(SettingsError, match=r"gate\.json is of another adapter than"):
        gated(other, "--take", site / "adapter" / "gate.json", *LARGE)


def test_a_model_that_says_rows_by_heart_is_held_and_the_rows_are_not_named(answers, opened):
    """Rows that end as this model goes on by itself, and its base does not."""
    by = GateSettings(memorised_tokens=3)
    starts = [start for start, _ in beginnings(opened, rows_of(opened, answers[1]), by)]
    own = [(start, list(said(opened, start))) for start in starts]
    pairs = [pair for pair in own if not by_heart(opened, *pair, base=True)]
    assert pairs
    found = memorised(opened, pairs, by)
    assert not found.passed
    assert (found.figures["adapted"], found.figures["base"]) == (1.0, 0.0)
    never = [(start, [(end[0] + 1) % 40, *end[1:]]) for start, end in pairs]
    assert memorised(opened, never, by).passed
    assert re.findall(r"\d+\+\d+", json.dumps(found.model_dump())) == []


def said(opened, start):
    return greedy(opened.model, start, on=opened.on, ends=(), most=3)


def test_an_adapter_that_unlearnt_refusals_is_held(opened, monkeypatch):
    """The base refuses what it should; with the adapter on nothing is refused."""
    layer = next(layer for _, layer in adapted_layers(opened.model))
    monkeypatch.setattr(module, "refuses", lambda opened, prompt, by: prompt.refuse and layer._disable_adapters)
    prompts = [Prompt(str(number), number < 10) for number in range(20)]
    unlearnt, over = refusals(opened, prompts, GateSettings())
    assert (unlearnt.passed, unlearnt.figures["adapted"], unlearnt.figures["base"]) == (False, 0.0, 1.0)
    assert over.passed


def test_one_that_forgot_the_text_is_held_and_less_of_it_is_tried_without_a_trace(answers, tmp_path):
    run = planted(answers[0], tmp_path / "run", lambda name, tensor: tensor * 30 if "lora_B" in name else tensor)
    bound = ("--set", "forgetting=0.01")
    status, found, printed = gated(run, "--forgetting", write_text(tmp_path), "--try-merge", *bound, *LARGE)
    assert (status, "forgetting" in found["held_by"]) == (1, True)
    assert re.findall(r"With (.*) of the adapter:", printed) == ["0.75", "0.5", "0.25"]
    assert len([one for one in found["checks"] if one["name"] == "forgetting"]) == 1


def test_less_of_an_adapter_lies_between_it_and_its_base_and_is_undone(opened):
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        whole = opened.model(ids).logits
        with shrunk(opened.model, 0.0):
            nothing = opened.model(ids).logits
        with untouched(opened.model):
            assert torch.equal(nothing, opened.model(ids).logits)
        assert torch.equal(whole, opened.model(ids).logits)
        assert not torch.allclose(whole, nothing)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("prompt,refuse\nhow,perhaps\n", r"row 1: `refuse` is yes or no"),
        ("prompt,refuse\n", r"has no prompts"),
    ],
)
def test_a_file_of_prompts_that_cannot_be_used_says_why(answers, tmp_path, content, why):
    (tmp_path / "prompts.csv").write_text(content)
    with pytest.raises(SettingsError, match=why):
        gated(answers[0], "--refusals", tmp_path / "prompts.csv")


def test_a_model_that_writes_nothing_is_not_asked(honest, tmp_path):
    with pytest.raises(SettingsError, match=r"writes no answers"):
        gated(honest, "--forgetting", write_text(tmp_path))
