"""Steps of a whole language model against each other: CPU time of a preference pair, and what packing saves.

    python -m tests.bench.bench_lm_steps [--rows 2] [--tokens 48] [--turns 5] [--packed 8]

All 30 layers of SmolLM2-135M, LoRA r = 8, one thread, the optimiser included.
1. Pairs (DPO) against causal-lm on as many answers of the same length; and on twice as many, which are as many tokens.
   References are there, as from the second time that a site sees a pair; the pass that makes them is said by itself.
2. Rows of `faq` (whole, at most 192 tokens) packed against padded: the same batches and the same sums.
Turns are interleaved; a figure is the median of the ratios within a turn.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

import torch
from torch import nn

from client.steps.optimizer import make_optimizer
from client.training import accumulate
from fedlora.adapters import inject, set_trainable
from fedlora.config import AdapterSettings, ModelSettings, TrainSettings, load
from fedlora.data.examples import Examples, encoded
from fedlora.data.rows import read_rows
from fedlora.models.base import load_base
from fedlora.models.reference import referred
from fedlora.tasks.preference import pair_of
from fedlora.tasks.registry import task_of
from fedlora.updates import Factor
from simulations.data.partition import columns_of
from tests.bench.bench_lm_private import Step, examples_of, timed


def model_on(on: ModelSettings) -> tuple[nn.Module, list[nn.Parameter], object, int]:
    """Adapted, B away from zero."""
    base = load_base(on, ())
    inject(base.model, AdapterSettings(r=8))
    for name, parameter in base.model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.02)
    return base.model.train(), set_trainable(base.model, (Factor.A, Factor.B)), base.processor, base.padding


def step_on(
    model: nn.Module, parameters: list[nn.Parameter], examples: Examples, on: ModelSettings, indices: Sequence[int],
    *, packing: bool = False,
) -> Step:  # fmt: skip
    train = TrainSettings(optimizer="sgd", lr=0.01, batch_size=len(indices), packing=packing)
    optimizer = make_optimizer(model, parameters, train)

    def step() -> None:
        accumulate(model, examples, indices, train, on=on)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def interleaved(steps: Sequence[Step], turns: int) -> list[list[float]]:
    """CPU seconds of every step by turn, after one that is not counted; every second turn the other way round."""
    for step in steps:
        step()
    taken: list[list[float]] = [[] for _ in steps]
    for turn in range(turns):
        for which in range(len(steps)) if turn % 2 == 0 else reversed(range(len(steps))):
            taken[which].append(timed(steps[which]))
    return taken


def ratio(taken: Sequence[float], other: Sequence[float]) -> str:
    """
    >>> ratio([2.0, 3.0, 8.0], [1.0, 1.0, 2.0])
    '3.00 (turns 2.00 to 4.00)'
    """
    found = sorted(one / two for one, two in zip(taken, other, strict=True))
    return f"{statistics.median(found):.2f} (turns {found[0]:.2f} to {found[-1]:.2f})"


def pairs(rows: int, tokens: int, turns: int) -> None:
    plain = ModelSettings(id="smollm2", task="causal-lm", max_tokens=tokens)
    judged = plain.model_copy(update={"task": "preference"})
    model, parameters, _, padding = model_on(plain)
    answers = examples_of(2 * rows, tokens, padding=padding)
    items = [pair_of(*answers.items[2 * place : 2 * place + 2]) for place in range(rows)]
    unreferred = Examples(items, task_of(judged), padding)
    compared = referred(model, unreferred, on=judged, at_once=rows)

    def refer() -> None:
        again = Examples(items, task_of(judged), padding)
        referred(model, again, on=judged, at_once=rows)

    of_pairs, of_answers, of_twice, of_reference = interleaved(
        [
            step_on(model, parameters, compared, judged, range(rows)),
            step_on(model, parameters, answers, plain, range(rows)),
            step_on(model, parameters, answers, plain, range(2 * rows)),
            refer,
        ],
        turns,
    )
    print(f"SmolLM2, 30 layers, {rows} pairs of answers of {tokens} tokens, {turns} turns; CPU time of a step:")
    print(f"  a pair against an answer of causal-lm        {ratio(of_pairs, of_answers)}")
    print(f"  a pair against two, which are as many tokens {ratio(of_pairs, of_twice)}")
    print(f"  its reference, once, against an answer       {ratio(of_reference, of_answers)}")


def packing(rows: int, turns: int) -> None:
    recipe = load("faq")
    on = recipe.model.model_copy(update={"max_tokens": 192})
    model, parameters, processor, _ = model_on(on)
    examples = encoded(read_rows(recipe.data.source, columns_of(recipe.data, recipe.model.task)), (), processor, on=on)
    chosen = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0))[:rows].tolist()
    padded, packed = examples.batch(chosen)["input_ids"], examples.packed(chosen)["input_ids"]
    taken = interleaved(
        [step_on(model, parameters, examples, on, chosen, packing=together) for together in (True, False)], turns
    )
    own = sum(examples.lengths[place] for place in chosen)
    print(f"{rows} rows of faq, {own} tokens: padded {tuple(padded.shape)}, packed {tuple(packed.shape)}")
    print(f"  CPU time of a packed step against a padded one {ratio(*taken)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--packed", type=int, default=8)
    parser.add_argument("--turns", type=int, default=5)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    pairs(chosen.rows, chosen.tokens, chosen.turns)
    packing(chosen.packed, chosen.turns)


if __name__ == "__main__":
    main()
