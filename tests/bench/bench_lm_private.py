"""A private step of a whole language model against the non-private one, at equal tokens: CPU time and peak memory.

    python -m tests.bench.bench_lm_private [--rows 4] [--tokens 48] [--turns 7] [--targets attention]

All 30 layers of SmolLM2-135M, LoRA r = 8, one thread, answers from the second token on. Both steps are those of a site
(`client.training`), the optimiser included, the private one with sampling (q = 1: the same rows) and noise. Turns are
interleaved; a figure is the median of the ratios within a turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from client.steps.optimizer import make_optimizer
from client.training import Protection, accumulate, private_steps
from fedlora.adapters import inject, set_trainable
from fedlora.config import AdapterSettings, ModelSettings, TrainSettings
from fedlora.data.examples import Examples
from fedlora.models.base import load_base
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import SecureSource
from fedlora.tasks.answers import item_of
from fedlora.tasks.registry import task_named
from fedlora.updates import Factor
from tests.bench.bench_privacy import peak_bytes

Step = Callable[[], None]
WEIGHTS_BYTES = 4 * 134_515_008
"""Of SmolLM2 in float32; both steps hold them once."""


def examples_of(rows: int, tokens: int, *, padding: int) -> Examples:
    """Rows of one length; all but the first token is learnt."""
    stream = torch.Generator().manual_seed(0)
    drawn = torch.randint(1000, 20_000, (rows, tokens), generator=stream).tolist()
    items = [item_of(ids, [False, *[True] * (tokens - 1)]) for ids in drawn]
    return Examples(items, task_named("causal-lm"), padding)


@dataclass(frozen=True)
class Setting:
    """What both steps are of."""

    on: ModelSettings
    train: TrainSettings
    targets: Literal["attention", "all-linear"]

    def model(self) -> tuple[nn.Module, list[nn.Parameter], Examples]:
        """A model of its own for each step: an engine keeps the one that it has entered."""
        base = load_base(self.on, ())
        inject(base.model, AdapterSettings(r=8, targets=self.targets))
        for name, parameter in base.model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.02)
        examples = examples_of(self.train.batch_size, self.on.max_tokens, padding=base.padding)
        return base.model.train(), set_trainable(base.model, (Factor.A, Factor.B)), examples


def ordinary(setting: Setting) -> Step:
    model, parameters, examples = setting.model()
    optimizer = make_optimizer(model, parameters, setting.train)

    def step() -> None:
        accumulate(model, examples, range(len(examples)), setting.train, on=setting.on)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


@contextmanager
def private(setting: Setting) -> Iterator[Step]:
    model, parameters, examples = setting.model()
    optimizer, rows = make_optimizer(model, parameters, setting.train), len(examples)
    mechanism = Mechanism(rate=1.0, noise_multiplier=1.0, clip=1.0, steps=10**6, expected_batch=rows)
    protection = Protection(mechanism, SecureSource())
    with private_steps(model, examples, setting.train, on=setting.on, protection=protection) as (engine, loss):

        def step() -> None:
            engine.step(loss)
            optimizer.step()

        yield step


def timed(step: Step) -> float:
    """CPU seconds."""
    started = time.process_time()
    step()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--targets", choices=["attention", "all-linear"], default="attention")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    on = ModelSettings(id="smollm2", task="causal-lm", max_tokens=chosen.tokens)
    train = TrainSettings(optimizer="sgd", lr=0.01, batch_size=chosen.rows)
    setting = Setting(on, train, chosen.targets)
    without = ordinary(setting)
    with private(setting) as within:
        for step in (without, within, within):  # the second private one has looked at whether every parameter moves
            step()
        memory = [WEIGHTS_BYTES + peak_bytes(step) for step in (without, within)]
        taken: tuple[list[float], list[float]] = ([], [])
        for turn in range(chosen.turns):
            for which in (0, 1) if turn % 2 == 0 else (1, 0):
                taken[which].append(timed((without, within)[which]))
    ratios = sorted(mine / theirs for theirs, mine in zip(*taken, strict=True))
    print(
        f"SmolLM2, 30 layers, {chosen.targets}, {chosen.rows} rows x {chosen.tokens} tokens: a private step takes "
        f"{statistics.median(ratios):.3f} of the CPU time (turns {ratios[0]:.2f} to {ratios[-1]:.2f}; "
        f"{statistics.median(taken[0]):.1f} s without privacy) and {memory[1] / memory[0]:.3f} of the memory "
        f"({memory[0] / 1e6:.0f} MB without, weights included)"
    )


if __name__ == "__main__":
    main()
