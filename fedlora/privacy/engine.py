"""DP-SGD on an adapter at the cost of ordinary training. How client code uses it:

    mechanism = Mechanism(rate=q, noise_multiplier=sigma, clip=1.0, steps=10, expected_batch=32)
    engine = PrivateEngine(model, mechanism, examples=len(train_set), source=SecureSource(), microbatch=16)
    with engine:                                   # swaps the small linears that train; restores them on the way out
        engine.rehearse(loss_on_invented_examples) # where others see whether a task fails: see below
        for _ in range(mechanism.steps):
            engine.step(loss_per_example)          # leaves the privatised mean gradient in every p.grad
            optimizer.step()                       # any torch optimizer over the parameters that train

    def loss_per_example(indices: Tensor) -> Tensor:   # indices (n,) int64 into train_set -> losses (n,)
        batch = collate(train_set, indices)
        return functional.cross_entropy(model(**batch), batch_labels, reduction="none")

`step` draws the Poisson sample itself, calls `loss_per_example` once per microbatch (never for an empty batch), and
needs no `zero_grad`. Autocast belongs inside `loss_per_example`. Set what trains (`requires_grad`) and the device
before the engine is entered. `gradients="opacus"` takes per-example gradients from Opacus' hooks instead.
Where examples are padded, `shapes` says to what: only examples of one shape are computed together.

Guarantee, for one `step`, with respect to adding or removing one example of the dataset:
 1. One example moves the clipped sum by at most C in L2 norm over everything that trains (up to rounding).
 2. An example whose gradient is not finite moves it by zero; after `rehearse`, so does one that cannot be computed.
 3. What is left in p.grad is (clipped sum + N(0, σ²C²)) / b with the public b, also when the sample is empty.
 4. Sampling and noise come from one stream of `source`, fresh for the step.
 5. Whatever the engine cannot bound is a `Refusal` before any gradient is released: see `supported`, `rehearsal`.
 6. No more than `mechanism.steps` steps are taken.
 7. After `rehearse`, whether a step fails does not depend on which examples were drawn, nor on what is in them.
 8. An example's gradient is a function of that example alone: no dropout nor any other draw (`quiet`) that `rehearse`
    can find, and no padding to the length of another (`shapes`). Who else is in its microbatch changes its last bits at
    most.
Not private, and so never to leave the site: the losses, and `engine.nonfinite_examples`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Literal, Protocol, Self

import torch
from torch import Tensor, nn

from fedlora.devices.lost import device_is_lost
from fedlora.devices.memory import make_room
from fedlora.devices.transfers import reading_waits
from fedlora.privacy import ahead, hooks, linears
from fedlora.privacy.complete import require_complete, require_one_loss_each
from fedlora.privacy.ghost_norms import Gradients, squares, weighted, without
from fedlora.privacy.masks import every_mask_made
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import Noise, Source, poisson_sample, privatise
from fedlora.privacy.precision import full_float32
from fedlora.privacy.quiet import require_quiet, without_randomness
from fedlora.privacy.refusal import Code, Refusal
from fedlora.privacy.rehearsal import PerSample, examples_are_alone, not_finite, require_whole_batch
from fedlora.privacy.supported import FrozenWeightsCheck, require_supported
from fedlora.processes.memory import ran_out_of_memory

log = logging.getLogger(__name__)

LossPerExample = Callable[[Tensor], Tensor]
Found = tuple[Tensor, PerSample]
"""Losses (n,), and per-example gradients."""
Sums = dict[Tensor, Tensor]


class PerExampleGradients(Protocol):
    """A source of per-example gradients: `begin`, one forward and backward, `end`, for every microbatch."""

    def attach(self, model: nn.Module) -> Sequence[nn.Parameter]: ...
    def detach(self) -> None: ...
    def begin(self, batch: int) -> None: ...
    def end(self) -> PerSample: ...


class PrivateEngine:
    """See the top of this file. One engine is one task: its step count is the one that was charged."""

    def __init__(
        self,
        model: nn.Module,
        mechanism: Mechanism,
        *,
        examples: int,
        source: Source,
        microbatch: int | None = None,
        gradients: Literal["fedlora", "opacus"] = "fedlora",
        shapes: Sequence[int] | None = None,
        computes_in: torch.dtype = torch.float32,
    ) -> None:
        """`computes_in`: what the loss is computed in, autocast included: how far its rounding may move an example."""
        if examples < 1:
            raise ValueError(f"examples must be >= 1, got {examples}.")
        if microbatch is not None and microbatch < 1:
            raise ValueError(f"microbatch must be >= 1 or None, got {microbatch}.")
        if shapes is not None and len(shapes) != examples:
            raise ValueError(f"shapes must have one entry for each of {examples} examples, got {len(shapes)}.")
        self.mechanism = mechanism
        self._model = model
        self._examples = examples
        self._source = source
        self._microbatch = microbatch
        self._shapes_n = None if shapes is None else torch.as_tensor(shapes)
        self._computes_in = computes_in
        self._backend = BACKENDS[gradients]()
        self._steps = 0
        self._uncoupled = self._rehearsed = False
        self._watch: FrozenWeightsCheck | None = None
        self._trained: list[nn.Parameter] = []
        self._draws: Iterator[ahead.Draws] = iter(())
        self._not_computed, self._not_finite = 0, torch.zeros((), dtype=torch.int64)
        self._exits = ExitStack()

    @property
    def secure(self) -> bool:
        """Whether the noise is from the secure source; if not, every figure of the run is marked insecure."""
        return self._source.secure

    @property
    def nonfinite_examples(self) -> int:
        """Draws so far whose gradient was not finite or could not be computed. Private: it stays at the site."""
        return self._not_computed + int(self._not_finite)

    def __enter__(self) -> Self:
        self._trained = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        with ExitStack() as exits:
            exits.enter_context(without_randomness(self._model))
            exits.enter_context(every_mask_made())
            owned = self._backend.attach(self._model)
            exits.callback(self._backend.detach)
            require_supported(self._model, owned)
            self._draws = exits.enter_context(self._drawing())
            self._exits = exits.pop_all()
        self._watch = FrozenWeightsCheck(self._model)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()
        self._draws = iter(())
        if kind is not None:
            for parameter in self._trained:  # whatever was under way is not private
                parameter.grad = None
        elif self._steps and self._watch is not None:
            self._watch.require_moved()

    def rehearse(self, loss_per_example: LossPerExample, companies: Iterable[Sequence[int]] = ((0, 1, 2),)) -> None:
        """Try the model on invented examples, three of one shape at a time: what is refused here tells nothing of data.

        From then on an example that cannot be computed (a token that the model does not know, a batch too large for
        the memory, even one by one) moves the sum by zero. A task that failed with one example in the data, and not
        without it, would tell that it is there, and no noise would cover it.
        """
        for triple in companies:
            if not self._examples_are_alone(torch.tensor(triple), loss_per_example):
                raise not_finite()
        self._uncoupled = self._rehearsed = True

    def rehearse_whole_batch(self, loss_per_example: LossPerExample, indices: Sequence[int]) -> None:
        """Try a microbatch of the largest size and shape, for what only that meets: its memory, a limit per batch."""
        backward = lambda i, weights_n: self._backward(i, loss_per_example, weights_n)  # noqa: E731
        require_whole_batch(backward, torch.tensor(indices), clip=self.mechanism.clip, computes_in=self._computes_in)

    def step(self, loss_per_example: LossPerExample) -> None:
        """One logical step: sample, clip, sum, add noise, divide by b; the result is in every p.grad."""
        if self._watch is None:
            raise RuntimeError("engine.step outside `with engine:`; enter the engine first.")
        if self._steps >= self.mechanism.steps:
            raise Refusal(Code.TOO_MANY_STEPS, f"all {self.mechanism.steps} steps that were charged have been taken.")
        if self._steps == 1:
            self._watch.require_moved()
        self._steps += 1
        self._take(loss_per_example)

    def _take(self, loss_per_example: LossPerExample) -> None:
        draws = next(self._draws)
        self._release(self.clipped_sum(draws.indices, loss_per_example), draws.noise)

    def _drawing(self) -> ahead.Drawing:
        """A step's sample and noise, one fresh stream for each; no more of them than steps."""
        sampled = partial(poisson_sample, examples=self._examples, rate=self.mechanism.rate)
        count, left = sum(p.numel() for p in self._trained), self.mechanism.steps - self._steps
        return ahead.draws(self._source, sampled, count, steps=left, device=self._trained[0].device)

    def clipped_sum(self, indices: Tensor, loss_per_example: LossPerExample) -> Sums:
        """Σ min(1, C / ‖g_i‖) g_i per parameter, in float64. Not private by itself: `step` releases it with noise."""
        totals: Sums = {p: torch.zeros(p.shape, dtype=torch.float64, device=p.device) for p in self._trained}
        for piece in self.pieces(indices, loss_per_example):
            for clipped in self._computable(piece, loss_per_example):
                for parameter, part in clipped.items():
                    totals[parameter].add_(part)
        return totals

    def pieces(self, indices: Tensor, loss_per_example: LossPerExample) -> Iterator[Tensor]:
        """The microbatches of a batch: of one shape each, of at most the largest size, none empty."""
        if not self._uncoupled and not self._rehearsed and len(indices) > 1:
            triple = torch.stack([indices[0], indices[1], indices[min(2, len(indices) - 1)]])
            self._uncoupled = self._examples_are_alone(triple, loss_per_example)
        size = (self._microbatch or max(len(indices), 1)) if self._uncoupled else 1  # one alone cannot be coupled
        shapes_n = torch.zeros(len(indices)) if self._shapes_n is None else self._shapes_n[indices]
        for shape in torch.unique(shapes_n):
            yield from torch.split(indices[shapes_n == shape], size)

    def _computable(self, piece: Tensor, loss_per_example: LossPerExample) -> Iterator[Sums]:
        """The clipped sum of a microbatch; where it fails after a rehearsal, of each example by itself that does not.

        Where memory is short, in clipping too, whoever has rehearsed or not, of halves of it. What that teaches is
        forgotten: another microbatch, of this step or a later one, is tried as it would have been.
        """
        clipped: Sums | None = None
        short = False
        try:
            clipped = self._clip(self._gradients(piece, loss_per_example))
        except Refusal:
            raise
        except Exception as error:
            short = len(piece) > 1 and ran_out_of_memory(error)
            if device_is_lost(error) or (not self._rehearsed and not short):
                raise
            log.warning("%d example(s) failed together", len(piece), exc_info=len(piece) == 1)
        if clipped is not None:
            yield clipped
            return
        if short:
            make_room()
        elif len(piece) == 1:
            self._not_computed += 1
            return
        for part in torch.split(piece, len(piece) // 2 if short else 1):
            yield from self._computable(part, loss_per_example)

    def _release(self, totals: Sums, stream: Noise) -> None:
        flat = torch.cat([totals[parameter].flatten() for parameter in self._trained])
        noisy = privatise(flat, stream, noise_std=self.mechanism.noise_multiplier * self.mechanism.clip)
        pieces = torch.split(noisy.div_(self.mechanism.expected_batch), [p.numel() for p in self._trained])
        for parameter, piece in zip(self._trained, pieces, strict=True):
            parameter.grad = piece.view(parameter.shape).to(parameter.dtype)

    def _clip(self, gradients: PerSample) -> Sums:
        """One norm over all parameters, one factor per example, one weighted sum per parameter; all in full float32."""
        with torch.autocast(self._trained[0].device.type, enabled=False), full_float32():
            factors_n = self._factors(gradients)
            clipped = {p: self._summed(g, factors_n) for p, g in gradients.items()}
        zeroed = (factors_n == 0).sum()  # counted when nothing more can fail, and be tried again
        self._not_finite = self._not_finite.to(zeroed.device, non_blocking=True) + zeroed
        return clipped

    def _summed(self, gradients: Gradients, factors_n: Tensor) -> Tensor:
        return weighted(gradients, factors_n)

    def _factors(self, gradients: PerSample) -> Tensor:
        """min(1, C / norm) of every example (n,); 0, and its rows in `gradients` too, where the norm is not finite."""
        norms_n = torch.stack([squares(g) for g in gradients.values()]).sum(0).sqrt()
        finite_n = norms_n.isfinite()
        factors_n = (self.mechanism.clip / norms_n.clamp(min=1e-30)).clamp(max=1.0)
        if reading_waits(finite_n) or not bool(finite_n.all()):
            factors_n = torch.where(finite_n, factors_n, 0.0)
            gradients |= {parameter: without(g, ~finite_n) for parameter, g in gradients.items()}
        return factors_n

    def _gradients(self, indices: Tensor, loss_per_example: LossPerExample) -> PerSample:
        """Every trained parameter's per-example gradients (n, *shape), or a Refusal."""
        return self._backward(indices, loss_per_example)[1]

    def _backward(self, indices: Tensor, loss_per_example: LossPerExample, weights_n: Tensor | None = None) -> Found:
        require_quiet(self._model)
        for parameter in self._trained:
            parameter.grad = None
        self._backend.begin(len(indices))
        try:
            losses_n = loss_per_example(indices)
            require_one_loss_each(losses_n, len(indices))
            weights_n = torch.ones_like(losses_n) if weights_n is None else weights_n.to(losses_n)
            torch.autograd.backward(losses_n, weights_n)
        finally:
            gradients = self._backend.end()
        require_complete(gradients, self._trained, len(indices), shape_of=self._shape_of_one, called=self._name)
        return losses_n.detach(), gradients

    def _shape_of_one(self, parameter: Tensor) -> torch.Size:
        return parameter.shape

    def _examples_are_alone(self, triple: Tensor, loss_per_example: LossPerExample) -> bool:
        """Refuse what couples examples or draws; False when non-finite values hide the answer: then ask again later."""
        backward = lambda indices, weights_n: self._backward(indices, loss_per_example, weights_n)  # noqa: E731
        return examples_are_alone(backward, triple, clip=self.mechanism.clip, computes_in=self._computes_in)

    def _name(self, parameter: Tensor) -> str:
        return next(name for name, other in self._model.named_parameters() if other is parameter)


BACKENDS: Mapping[str, Callable[[], PerExampleGradients]] = {
    "fedlora": linears.ExpandedLinears,
    "opacus": hooks.OpacusHooks,
}
