"""Without privacy a step that is not finite changes nothing and is counted.

With it such an example counts as zero: `tests/privacy/test_engine.py`.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from client.round import answer
from client.steps.optimizer import make_optimizer
from client.steps.order import batches_of
from client.steps.stepper import Pace
from client.steps.turn import Turn
from client.training import accumulate, train_adapter
from client.work import NotFiniteError, Steps
from fedlora.config import ModelSettings, TrainSettings
from fedlora.data.examples import Examples
from server.replies.quorum import QuorumError
from tests.federations import run
from tests.privacy.architectures import loaded
from tests.privacy.rounds import coordinator, site
from tests.token_examples import token_examples, token_ids

POISON = 59
TRAIN = TrainSettings(optimizer="adamw", lr=0.01, batch_size=2, steps=6)
TURN = Turn(seed=2, client="a", number=1, rounds=1)


def trained(model: nn.Module, parameters: list[nn.Parameter], examples: Examples, *, on: ModelSettings) -> Steps:
    live = {str(number): parameter for number, parameter in enumerate(parameters)}
    return train_adapter(model, live, examples, TRAIN, on=on, pace=Pace(TURN, frozenset(live), {}))


def rows(poisoned: tuple[int, ...]) -> Examples:
    """Twelve texts; `POISON` is a token of some."""
    stream = torch.Generator().manual_seed(0)
    texts = [torch.randint(2, POISON, (5,), generator=stream) for _ in range(12)]
    for index in poisoned:
        texts[index][2] = POISON
    return token_examples(texts, torch.arange(12) % 2, 0)


def fresh(folder, value: float = float("inf")):
    """The same model, every time; where the poison stands it is not finite."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model, parameters, on = loaded("llama", folder)
    for layer in model.layers:
        layer.self_attn.attention_dropout = 0.0

    def poisoned(_: nn.Module, args: tuple[torch.Tensor], y: torch.Tensor) -> torch.Tensor:
        return y * value if (args[0] == POISON).any() else y

    model.get_input_embeddings().register_forward_hook(poisoned)
    return model, parameters, on


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_is_left_out_and_counted(value, tmp_path, caplog):
    examples = rows((1, 8))
    model, parameters, on = fresh(tmp_path / "a", value)
    steps = trained(model, parameters, examples, on=on)
    model, expected, on = fresh(tmp_path / "b", value)
    batches = batches_of(TRAIN, 12, TURN)
    good = [batch for batch in batches if not {1, 8} & set(batch)]
    optimizer, nats = make_optimizer(model.train(), expected, TRAIN), []
    for batch in good:
        nats.append(accumulate(model, examples, batch, TRAIN, on=on))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    assert len(good) in (4, 5)
    assert steps.skipped == 6 - len(good)
    assert steps.loss == pytest.approx(sum(nats) / len(nats))
    assert all(torch.equal(left, right) for left, right in zip(parameters, expected, strict=True))
    assert f"{steps.skipped} of 6 steps skipped: their loss or gradient was not finite" in caplog.text


def test_a_gradient_that_is_not_finite_is_seen_where_the_loss_is(tmp_path):
    model, parameters, on = fresh(tmp_path, 1.0)
    parameters[0].register_hook(lambda gradient: gradient * float("nan"))
    before = [parameter.clone() for parameter in parameters]
    with pytest.raises(NotFiniteError):
        trained(model, parameters, rows(()), on=on)
    assert all(torch.equal(left, right) for left, right in zip(parameters, before, strict=True))


def test_where_no_step_is_finite_the_way_out_is_said_and_nothing_has_changed(tmp_path):
    model, parameters, on = fresh(tmp_path)
    before = [parameter.clone() for parameter in parameters]
    with pytest.raises(
        NotFiniteError, match=r"no step of 6 .* train\.lr=0\.01 is too large.*Lower train\.lr, set train"
    ):
        trained(model, parameters, rows(tuple(range(12))), on=on)
    assert all(torch.equal(left, right) for left, right in zip(parameters, before, strict=True))


def poison(server, token: int) -> None:
    """A model to which one token is not a number."""
    words = server.home.model.get_input_embeddings()
    words.register_forward_hook(
        lambda _, args, y: torch.where((args[0] == token).unsqueeze(-1), torch.full_like(y, float("nan")), y)
    )


def test_a_site_reports_how_many_steps_it_skipped_or_that_it_took_none(tmp_path):
    server, here = coordinator(tmp_path / "model"), site(tmp_path / "site", count=16)
    poison(server, 49)
    texts = token_ids(here.data.train)
    for text in token_ids(here.data.test):
        text[text == 49] = 48
    for number, text in enumerate(texts):
        text[text == 49] = 48
        text[0] = 49 if number == 5 else 7
    train = {"batch_size": 8, "steps": 2}
    report, blob = answer(*server.ask(1, privacy={}, train=train), here)
    assert (report.outcome, report.skipped_steps) == ("trained", 1)
    assert blob
    for text in texts:
        text[0] = 49
    report, blob = answer(*server.ask(2, privacy={}, train=train), here)
    assert (report.outcome, report.code, blob) == ("failed", "not-finite", None)


def test_a_run_that_diverges_at_every_site_says_what_to_lower(recipe, tmp_path):
    with pytest.raises(QuorumError, match=r"4 failed \(norm-out-of-range\)\. .*max_update_norm: lower train\.lr"):
        run(recipe("train.lr=1e30", "train.optimizer=sgd", "rounds.count=3"), tmp_path)
