"""What padding to public lengths costs, in tokens and in CPU time, on the airlines' own texts.

    python -m tests.bench.bench_padding [--max-tokens 48] [--turns 15]

MiniLM, LoRA r = 8, A, B and head, an expected 32 texts a step, one thread; every contender draws the same samples, and
takes turns with the others step by step. Ratios are to the private step that pads to the longest text drawn, which
is what version 0.1.0 did and what no private step may do (one long text would change what everybody computes).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from fedlora.config import ModelSettings
from fedlora.data.examples import Examples, encoded
from fedlora.data.form import Columns
from fedlora.data.rows import read_rows
from fedlora.models.base import load_processor
from fedlora.privacy.engine import PrivateEngine
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import SeededSource
from fedlora.tasks.registry import task_named
from tests.bench.bench_privacy import AB, BATCH, CLASSES, Setting, Step
from tests.token_examples import labels_n, token_examples, token_ids

KINDS = ("to the longest drawn", "to public lengths", "to max_tokens")


def texts(max_tokens: int) -> Examples:
    rows = list(read_rows("airlines", Columns()))[:4000]
    labels = tuple(sorted({row.label for row in rows}))
    found = encoded(rows, labels, load_processor(ModelSettings()), on=ModelSettings(max_tokens=max_tokens))
    return token_ids(token_examples(found), labels_n(found) % len(CLASSES), found.padding)


def contender(kind: str, examples: Examples, max_tokens: int, counted: list[int]) -> Step:
    """One private step; `counted` gets the tokens that each forward pass was given."""
    model, parameters = Setting("attention", max_tokens).model(AB)
    shapes = {
        "to the longest drawn": None,
        "to public lengths": examples.shapes(most=max_tokens),
        "to max_tokens": [max_tokens] * len(examples),
    }[kind]
    mechanism = Mechanism(rate=BATCH / len(examples), noise_multiplier=1.0, clip=1.0, steps=10**6, expected_batch=BATCH)
    engine = PrivateEngine(model, mechanism, examples=len(examples), source=SeededSource(0), shapes=shapes)
    engine.__enter__()
    optimizer = torch.optim.SGD(parameters, lr=0.01)
    return partial(step, engine, optimizer, partial(losses, model, examples, shapes, counted))


def losses(
    model: nn.Module, examples: Examples, shapes: list[int] | None, counted: list[int], indices: Tensor
) -> Tensor:
    chosen = indices.tolist()
    batch = examples.batch(chosen, length=shapes[chosen[0]] if shapes and len(chosen) else 0)
    counted.append(batch["input_ids"].numel())
    return task_named("sequence-classification").losses(model, batch)


def step(engine: PrivateEngine, optimizer: torch.optim.Optimizer, loss: Callable[[Tensor], Tensor]) -> None:
    engine.step(loss)
    optimizer.step()


def report(max_tokens: int, turns: int) -> None:
    examples = texts(max_tokens)
    counted: dict[str, list[int]] = {kind: [] for kind in KINDS}
    steps = {kind: contender(kind, examples, max_tokens, counted[kind]) for kind in KINDS}
    for take in steps.values():
        take()
    for tokens in counted.values():
        tokens.clear()
    seconds = dict.fromkeys(KINDS, 0.0)
    for turn in range(turns):
        for kind in KINDS if turn % 2 == 0 else KINDS[::-1]:
            started = time.process_time()
            steps[kind]()
            seconds[kind] += time.process_time() - started
    real = sum(len(row) for row in token_ids(examples)) / len(examples)
    first = KINDS[0]
    print(f"padding of private steps, airlines, max_tokens {max_tokens}: texts have {real:.1f} tokens on average")
    print(f"{'padded':<24} {'tokens':>8} {'time':>7} {'microbatches a step':>20}")
    for kind in KINDS:
        tokens, pieces = sum(counted[kind]) / sum(counted[first]), len(counted[kind]) / turns
        print(f"{kind:<24} {tokens:>8.2f} {seconds[kind] / seconds[first]:>7.2f} {pieces:>20.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-tokens", type=int, default=48, help="as in the packaged private recipes")
    parser.add_argument("--turns", type=int, default=15, help="how often every contender steps")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    report(chosen.max_tokens, chosen.turns)


if __name__ == "__main__":
    main()
