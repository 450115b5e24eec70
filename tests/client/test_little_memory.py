"""Where memory ends, fewer examples are computed at once: the same steps, the same charge, up to rounding."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from client.round import answer
from client.steps.rehearsed import rehearse_privately
from client.steps.stepper import Pace
from client.steps.turn import Turn
from client.training import Protection, private_microbatch, train_adapter, train_adapter_privately
from fedlora.adapters.live import parameters_of
from fedlora.config import ModelSettings, TrainSettings
from fedlora.data.examples import Examples
from fedlora.models.evaluation import evaluate_examples
from fedlora.privacy import engine as engine_module
from fedlora.privacy.engine import PrivateEngine
from fedlora.privacy.ledger import LedgerFiles, read_ledger
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import SeededSource
from fedlora.units_path import units_folder
from fedlora.updates import Factor
from tests.privacy.architectures import loaded
from tests.privacy.models import Examples as Rows
from tests.privacy.models import classifier
from tests.privacy.rounds import coordinator, site
from tests.token_examples import token_examples

TRAIN = TrainSettings(optimizer="adamw", lr=0.01, batch_size=8, steps=3)
TRAINED = (Factor.A, Factor.B, Factor.DENSE)
PACE = Pace(Turn(seed=0, client="a", number=1, rounds=1), sent=frozenset(), moments={})
SHORT = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory"),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
    "windows": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    "python": MemoryError(),
}


class Little:
    """Memory for `most` examples: more fail in the backward pass, when the layers above have their gradients already.

    `passes` has the size of every forward pass.
    """

    def __init__(self, layer: nn.Module, most: int, error: Exception = SHORT["cpu"]) -> None:
        self.most, self.error, self.passes = most, error, list[int]()
        layer.register_forward_hook(self.seen)

    def seen(self, _: nn.Module, __: object, y: Tensor) -> None:
        rows = y.shape[0]
        self.passes.append(rows)
        if y.requires_grad:
            y.register_hook(lambda gradient: self.fail(rows))
        else:
            self.fail(rows)

    def fail(self, rows: int) -> None:
        if rows > self.most:
            raise type(self.error)(*self.error.args)


def rows(count: int) -> Examples:
    stream = torch.Generator().manual_seed(0)
    texts = [torch.randint(2, 60, (9,), generator=stream) for _ in range(count)]
    return token_examples(texts, torch.arange(count) % 2, 0)


def seeded(name: str, folder):
    """The same model, every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return loaded(name, folder)


def trained(folder, most: int | None, *, microbatch: int | None = None, error: Exception = SHORT["cpu"]):
    """Parameters after three steps with dropout, and what the model was given."""
    model, parameters, on = seeded("bert", folder)
    little = Little(model.encoder.layer[0], 99 if most is None else most, error)
    settings = TRAIN.model_copy(update={"microbatch_size": microbatch})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        steps = train_adapter(model, parameters_of(model, TRAINED), rows(20), settings, on=on, pace=PACE)
    return [parameter.detach() for parameter in parameters], steps, little.passes


@pytest.mark.parametrize("error", SHORT.values(), ids=SHORT)
def test_a_step_that_memory_is_too_small_for_is_that_of_smaller_pieces_and_nothing_counts_twice(
    error, tmp_path, caplog
):
    found, steps, passes = trained(tmp_path / "a", 3, error=error)
    expected, known, _ = trained(tmp_path / "b", None, microbatch=2)
    assert all(torch.equal(left, right) for left, right in zip(found, expected, strict=True)), "and the same dropout"
    assert steps == known
    assert passes == [8, 4, *[2] * 12], "what fits is found once"
    said = [record for record in caplog.records if record.name == "fedlora.devices.memory"]
    assert [record.getMessage() for record in said] == [
        "too little memory for 8 examples at once: from now on 2, with the same sums"
    ]


def test_pieces_of_other_sizes_have_the_same_sums_up_to_rounding(tmp_path):
    found, steps, _ = trained_without_dropout(tmp_path / "a", 2)
    expected, known, _ = trained_without_dropout(tmp_path / "b", 99)
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)
    assert steps.loss == pytest.approx(known.loss, rel=1e-5)


def trained_without_dropout(folder, most: int):
    model, parameters, on = seeded("llama", folder)
    model.config.attention_dropout = 0.0
    for layer in model.layers:
        layer.self_attn.attention_dropout = 0.0
    little = Little(model.layers[0], most)
    settings = TRAIN.model_copy(update={"optimizer": "sgd"})
    steps = train_adapter(model, parameters_of(model, TRAINED), rows(20), settings, on=on, pace=PACE)
    return [parameter.detach() for parameter in parameters], steps, little.passes


def test_where_not_even_one_example_fits_the_error_is_raised(tmp_path):
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        trained(tmp_path, 0)


def test_what_fails_for_another_reason_is_not_tried_again(tmp_path):
    with pytest.raises(RuntimeError, match="no kernel"):
        trained(tmp_path, 3, error=RuntimeError("no kernel for this"))


def test_an_evaluation_that_memory_is_too_small_for_gives_the_same_figures(tmp_path):
    model, _, on = loaded("bert", tmp_path)
    examples, by = rows(20), Computes(on)
    expected = evaluate_examples(model, examples, by=by)
    little = Little(model.encoder.layer[0], 5)
    found = evaluate_examples(model, examples, by=by)
    assert found.examples == 20
    assert (found.loss, found.metrics) == (pytest.approx(expected.loss, rel=1e-5), expected.metrics)
    assert little.passes == [20, 10, 5, 5, 5, 5]


class Computes:
    """What an evaluation asks of a recipe."""

    def __init__(self, model: ModelSettings) -> None:
        self.model, self.train = model, TRAIN


class Counted(SeededSource):
    """A source that says how many streams were taken from it."""

    taken = 0

    def fresh(self):
        self.taken += 1
        return super().fresh()


@pytest.mark.parametrize("gradients", ["fedlora", "opacus"])
@pytest.mark.parametrize("rehearsed", [True, False])
def test_a_private_step_is_repeated_with_the_same_examples_and_one_draw(gradients, rehearsed):
    def stepped(most: int, microbatch: int | None):
        examples, model, source = Rows(8), classifier(dtype=torch.float64), Counted(3)
        loss, passes = examples.loss(model), list[int]()

        def losses(indices: Tensor) -> Tensor:
            passes.append(len(indices))
            found = loss(indices)
            found.register_hook(lambda gradient: short(len(gradient)))
            return found

        def short(rows: int) -> None:
            if rows > most:
                raise MemoryError

        mechanism = Mechanism(rate=1.0, noise_multiplier=1.0, clip=0.5, steps=2, expected_batch=8.0)
        with PrivateEngine(
            model, mechanism, examples=8, source=source, microbatch=microbatch, gradients=gradients
        ) as engine:
            if rehearsed:
                engine.rehearse(Rows(3).loss(model))
            else:
                engine._uncoupled = True
            engine.step(losses)
            assert engine.nonfinite_examples == 0
            torch.optim.SGD(engine._trained, lr=1.0).step()
        return [parameter.detach() for parameter in engine._trained], source.taken, passes

    (found, taken, passes), (expected, _, _) = stepped(2, None), stepped(9, 2)
    assert all(torch.equal(left, right) for left, right in zip(found, expected, strict=True))
    assert taken == 1
    assert passes == [8, 4, 2, 2, 4, 2, 2], "and the next microbatch is tried whole: data teach nothing"


@pytest.mark.parametrize("place", ["squares", "without", "weighted"])
def test_memory_that_ends_in_clipping_makes_no_step_fail(place, monkeypatch):
    """One example more, or one whose gradient is not finite, may take what was left: a task that failed would tell."""

    def summed(most: int, microbatch: int | None):
        examples, model, inner = Rows(8), classifier(dtype=torch.float64), getattr(engine_module, place)

        def little(gradients, *rest):
            if len(gradients) > most:
                raise MemoryError
            return inner(gradients, *rest)

        def losses(indices: Tensor) -> Tensor:
            return examples.loss(model)(indices) * torch.where(indices == 3, torch.nan, 1.0)

        monkeypatch.setattr(engine_module, place, little)
        mechanism = Mechanism(rate=1.0, noise_multiplier=1.0, clip=0.5, steps=1, expected_batch=8.0)
        with PrivateEngine(model, mechanism, examples=8, source=SeededSource(3), microbatch=microbatch) as engine:
            engine.rehearse(Rows(3).loss(model))
            sums = engine.clipped_sum(torch.arange(8), losses)
        monkeypatch.setattr(engine_module, place, inner)
        return list(sums.values()), engine.nonfinite_examples

    (found, ignored), (expected, known) = summed(2, None), summed(9, 2)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert ignored == known == 1


def test_the_rehearsal_finds_what_fits_before_any_data_are_there_and_steps_begin_with_it(tmp_path):
    model, parameters, on = loaded("bert", tmp_path)
    little = Little(model.encoder.layer[0], 3)
    rehearse_privately(model, parameters, TRAIN, on=on, padding=1)
    assert private_microbatch(model, TRAIN, on) == 2
    tried = len(little.passes)
    rehearse_privately(model, parameters, TRAIN, on=on, padding=1)
    assert max(little.passes[tried:]) == 2, "once a process"
    mechanism = Mechanism(rate=1.0, noise_multiplier=1.0, clip=1.0, steps=2, expected_batch=8.0)
    del little.passes[:]
    protection = Protection(mechanism, SeededSource(0))
    live = parameters_of(model, TRAINED)
    train_adapter_privately(model, live, rows(8), TRAIN, on=on, protection=protection, pace=PACE)
    assert max(little.passes) == 2
    assert little.passes.count(2) >= 8


def test_a_model_of_which_two_examples_do_not_fit_is_not_charged(tmp_path):
    """Whether one moves another takes two."""
    model, parameters, on = loaded("bert", tmp_path)
    Little(model.encoder.layer[0], 1)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        rehearse_privately(model, parameters, TRAIN, on=on, padding=1)


def test_a_round_in_smaller_pieces_is_charged_once_and_as_any_other(tmp_path):
    def charged(name: str, most: int) -> dict[str, object]:
        server = coordinator(tmp_path / f"{name}-model")
        Little(server.home.model.encoder.layer[0], most)
        here = site(tmp_path / name)
        task, blob = server.ask(1)
        assert answer(task, blob, here)[0].outcome == "trained"
        entries = read_ledger(LedgerFiles(tmp_path / name, "default"), public_key=None).entries
        assert [entry.kind for entry in entries] == ["charge", "answer"]
        return {key: entries[0].fields[key] for key in ("rate", "noise_multiplier", "clip", "steps", "expected_batch")}

    assert charged("little", 3) == charged("plenty", 99)


def test_what_says_that_memory_is_short_is_recognised_where_the_process_is_limited():
    """The real thing: an allocation beyond RLIMIT_DATA fails as torch fails, and half of it goes through."""
    if sys.platform != "linux":
        pytest.skip("RLIMIT_DATA is Linux's")
    ran = subprocess.run(
        [sys.executable, "-c", REAL], capture_output=True, text=True, timeout=120, check=False, cwd=units_folder()
    )
    assert ran.stdout.split() == ["4", "4"], ran.stderr  # 2 GiB, 1 GiB and 512 MiB, where 1000 MiB are left


REAL = """
import torch
from torch import nn
from client.limits import data_bytes, limit_memory
from client.settings import Limits
from fedlora.devices.memory import fitting, with_what_fits

model = nn.Linear(1, 1)
limit_memory(Limits(memory_mib=max(512, data_bytes() // 2**20 + 1000)))

def squares(rows):
    x = torch.ones(rows, 2**25)   # 128 MiB a row
    return rows

print(with_what_fits(model, "squares", squares, asked=16), fitting(model, "squares", asked=16))
"""
