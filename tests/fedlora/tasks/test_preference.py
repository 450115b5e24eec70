"""Preference training: what is learnt of a pair, DPO's loss from plain logits, and the private sum over pairs."""

from __future__ import annotations

import json
import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaConfig

from fedlora.adapters import initial_adapter, inject, set_trainable, write
from fedlora.config import AdapterSettings, ModelSettings
from fedlora.config.preference import PreferenceSettings
from fedlora.data.examples import Examples, encoded
from fedlora.data.form import PREFERENCE, PREFERENCE_MESSAGES
from fedlora.data.row import Row
from fedlora.models.reference import referred
from fedlora.privacy.engine import PrivateEngine
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import SeededSource
from fedlora.protocol.task import Evaluation
from fedlora.settings import SettingsError, parse
from fedlora.tasks.answers import item_of
from fedlora.tasks.base import IGNORED, Item
from fedlora.tasks.preference import Preference, pair_of, says_something, side_of
from fedlora.tasks.registry import task_of
from fedlora.updates import Factor
from tests.chats import tokenizer_with
from tests.privacy.architectures import CONFIGS
from tests.privacy.models import looped_clipped_sum

ON = parse(ModelSettings, {"task": "preference", "max_tokens": 16})
TASK = Preference()
WIDE = LlamaConfig(
    hidden_size=128, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
    vocab_size=60, max_position_embeddings=32,
)  # fmt: skip


def pairs() -> list[Item]:
    """Four pairs: prompts of three tokens, answers of unlike lengths."""
    draw = torch.Generator().manual_seed(1)

    def side(tokens: int) -> Item:
        ids = [5, 6, 7, *torch.randint(2, 60, (tokens,), generator=draw).tolist()]
        return item_of(ids, [place >= 3 for place in range(len(ids))])

    return [pair_of(side(one), side(other)) for one, other in ((4, 6), (1, 9), (7, 2), (5, 5))]


def adapted(config: LlamaConfig | None = None, *, r: int = 2, std: float = 0.3) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config or CONFIGS["llama"]).eval()
        settings = AdapterSettings(r=r)
        inject(model, settings)
        write(model, initial_adapter(model, settings, seed=0))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=std)
    return model


def with_reference(model: nn.Module, task: Preference = TASK) -> Examples:
    return referred(model, Examples(pairs(), task, 0), on=ON, at_once=3)


def plain_likelihood(model: nn.Module, item: Item) -> Tensor:
    """The slow twin: one text by itself, from all of the model's own logits."""
    logits = model(input_ids=item["input_ids"][None]).logits[0, :-1].log_softmax(-1)
    learnt = (item["labels"][1:] != IGNORED).nonzero()[:, 0]
    return logits[learnt, item["labels"][1:][learnt]].sum()


@pytest.mark.parametrize(("beta", "smoothing"), [(0.1, 0.0), (2.0, 0.25)])
def test_the_loss_is_dpos_from_the_models_own_logits_against_the_model_without_its_adapter(beta, smoothing):
    task = Preference(parse(PreferenceSettings, {"beta": beta, "label_smoothing": smoothing}))
    model = adapted()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = AutoModelForCausalLM.from_config(CONFIGS["llama"]).eval()
    examples = with_reference(model, task)
    expected = []
    with torch.no_grad():
        for item in pairs():
            gains = [plain_likelihood(model, side_of(item, side)) - plain_likelihood(base, side_of(item, side))
                     for side in ("", "rejected_")]  # fmt: skip
            z = beta * (gains[0] - gains[1])
            expected.append(-(1 - smoothing) * z.sigmoid().log() - smoothing * (-z).sigmoid().log())
        found = task.losses(model, examples.batch(range(4)))
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_before_the_first_step_every_pair_is_a_tie_at_ln_2_and_guessing_is_a_half():
    model = adapted(std=0.0)
    with torch.no_grad():
        measured = TASK.measure(model, with_reference(model).batch(range(4)))
    assert measured["loss"].value == pytest.approx(math.log(2), abs=1e-6)
    assert measured["reward_accuracy"].value == 0.5
    assert measured["reward_margin"].value == pytest.approx(0.0, abs=1e-6)
    assert TASK.judge(pairs(), ()).majority == 0.5


def test_what_is_measured_counts_pairs_that_are_the_right_way_round():
    batch = {**with_reference(adapted()).batch(range(4))}
    model = adapted()
    with torch.no_grad():
        margins = TASK.margins(model, batch)
        measured = TASK.measure(model, batch)
    assert measured["reward_accuracy"].value == pytest.approx(float((margins > 0).float().mean()))
    assert measured["reward_margin"].value == pytest.approx(float(margins.mean()))
    assert measured["loss"].value == pytest.approx(float(-functional.logsigmoid(margins).mean()))


@pytest.mark.parametrize("gradients", ["fedlora", "opacus"])
@pytest.mark.parametrize("wide", [False, True])
def test_the_private_sum_is_that_of_a_loop_over_pairs_also_where_gradients_are_never_formed(gradients, wide):
    model = adapted(WIDE, r=128, std=0.02) if wide else adapted()
    examples, clip, everyone = with_reference(model), 0.05, torch.arange(4)
    set_trainable(model, (Factor.A, Factor.B))

    def loss(chosen: Tensor) -> Tensor:
        return TASK.losses(model, examples.batch(chosen.tolist(), length=16))

    expected = looped_clipped_sum(model, loss, everyone, clip=clip)
    mechanism = Mechanism(rate=1.0, noise_multiplier=1.0, clip=clip, steps=1, expected_batch=4.0)
    engine = PrivateEngine(model, mechanism, examples=4, source=SeededSource(0), gradients=gradients)
    with engine:
        found = engine.clipped_sum(everyone, loss)
    for parameter, total in expected.items():
        torch.testing.assert_close(found[parameter], total, atol=1e-6 * clip, rtol=1e-4)


def texts(prompt: str, chosen: str, rejected: str) -> Row:
    return Row(PREFERENCE, (prompt, chosen, rejected))


def chats(*cells: list[tuple[str, str]]) -> Row:
    written = (json.dumps([{"role": role, "content": content} for role, content in cell]) for cell in cells)
    return Row(PREFERENCE_MESSAGES, tuple(written))


def learnt(item: Item, side: str = "") -> str:
    labels = item[f"{side}labels"]
    return "".join(tokenizer_with().convert_ids_to_tokens(labels[labels != IGNORED].tolist()))


def encode(*rows: Row, longest: int = 60, each: bool = False) -> list[Item]:
    return TASK.encode(rows, tokenizer_with(), (), longest=longest, padding=0, each=each)


def test_of_a_pair_both_answers_are_learnt_with_their_end_and_nothing_of_the_prompt():
    (item,) = encode(texts("Q: why?", " so", " because"))
    assert (learnt(item), learnt(item, "rejected_")) == (" so<e>", " because<e>")
    before = [("user", "hi"), ("assistant", "ho"), ("user", "why")]
    (item,) = encode(chats(before, [("assistant", "so")], [("assistant", "no")]))
    assert (learnt(item), learnt(item, "rejected_")) == ("so<e>", "no<e>")
    read = "".join(tokenizer_with().convert_ids_to_tokens(item["input_ids"].tolist()))
    assert "assistant\nho<e>" in read


@pytest.mark.parametrize("row", [texts("Q: why?", " so", " so"), texts("Q" * 20, " so", " no")])
def test_a_pair_of_the_same_answers_or_with_none_left_is_ignored_and_has_no_loss(row):
    kept, ignored = encode(texts("Q", " so", " no"), row, longest=16)
    assert says_something(kept)
    assert not says_something(ignored)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**{**WIDE.to_dict(), "hidden_size": 16})).eval()
    examples = referred(model, Examples([kept, ignored], TASK, 0), on=ON, at_once=2)
    with torch.no_grad():
        assert TASK.losses(model, examples.batch([0, 1]))[1] == 0
        assert TASK.measure(model, examples.batch([0, 1]))["loss"].weight == 1
    assert TASK.judge([kept, ignored], ()).examples == 1
    with pytest.raises(ValueError, match="without pairs"):
        TASK.judge([ignored], ())


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (chats([("user", "secret")], [("user", "a")], [("assistant", "b")]), "no message is the assistant"),
        (Row(PREFERENCE_MESSAGES, ("{}", "[]", "[]")), "messages are a list"),
        (Row(PREFERENCE_MESSAGES, ("secret", "[]", "[]")), "example 2"),
    ],
)
def test_a_row_that_is_no_pair_is_named_by_its_number_and_ignored_by_a_site_under_privacy(row, said):
    good = texts("Q", " so", " no")
    with pytest.raises(SettingsError, match=said) as refused:
        encode(good, row)
    assert "secret" not in str(refused.value)
    kept, ignored = encode(good, row, each=True)
    assert (says_something(kept), says_something(ignored)) == (True, False)


def test_beta_and_label_smoothing_come_from_the_recipe():
    on = ON.model_copy(update={"preference": parse(PreferenceSettings, {"beta": 0.7})})
    rows = [texts("Q", " so", " no")]
    assert encoded(rows, (), tokenizer_with(), on=on).task is task_of(on)
    assert task_of(on).settings.beta == 0.7
    with pytest.raises(SettingsError, match=r"preference\.beta"):
        parse(ModelSettings, {"preference": {"beta": 0}})
    with pytest.raises(SettingsError, match=r"label_smoothing"):
        parse(ModelSettings, {"preference": {"label_smoothing": 0.5}})


def test_a_margin_may_be_below_zero_a_share_may_not_and_neither_is_no_number():
    shown = Evaluation(loss=0.7, reward_accuracy=0.4, reward_margin=-1.5, examples=5)
    assert shown.value("reward_margin") == -1.5
    for metrics in ({"reward_accuracy": -0.1}, {"reward_accuracy": 1.1}, {"reward_margin": math.nan}):
        with pytest.raises(ValidationError, match=r"from 0 to 1|a finite number"):
            Evaluation(loss=0.7, examples=5, **metrics)
