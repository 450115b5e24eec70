"""A base that is held in bfloat16: its weights are rounded, and nothing that trains or is clipped is."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from client.training import Protection, private_steps
from fedlora.adapters import inject, read, set_trainable, write
from fedlora.adapters.export import export_adapter
from fedlora.adapters.live import adapted_layers
from fedlora.config import AdapterSettings, ModelSettings, TrainSettings
from fedlora.data.examples import Examples, encoded
from fedlora.data.row import text_row
from fedlora.models.base import Base, autocast, load_base
from fedlora.models.evaluation import evaluate
from fedlora.models.named import named_base
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import SeededSource
from fedlora.updates import Adapter, Factor
from simulations.run import prepare, simulate
from tests.exported import as_its_readme_says, distance
from tests.federations import tiny_recipe
from tests.privacy.models import looped_clipped_sum
from tests.token_examples import logits

LABELS = ("bad", "good")
CLIP = 0.5
TEXTS = ("great crew", "my bag lost the flight", "rude crew late", "love the seat my flight thanks", "late bag")
ALL = tuple(Factor)


def held(folder: str, dtype: str = "bfloat16") -> ModelSettings:
    return ModelSettings(id=folder, max_tokens=16, load_dtype=dtype)


def adapted(folder: str, kind: str = "lora") -> tuple[Base, Adapter]:
    """A base in bfloat16 with an adapter whose every factor has a gradient."""
    base = load_base(held(folder), LABELS)
    inject(base.model, AdapterSettings(r=2, alpha=3.0, kind=kind))
    stream = torch.Generator().manual_seed(0)
    start = read(base.model)
    moved = {name: torch.randn(tensor.shape, generator=stream) / 4 for name, tensor in start.tensors().items()}
    write(base.model, start.with_tensors(moved))
    return base, start.with_tensors(moved)


def examples_for(base: Base, settings: ModelSettings) -> Examples:
    rows = [text_row(text, LABELS[number % 2]) for number, text in enumerate(TEXTS)]
    return encoded(rows, LABELS, base.processor, on=settings)


def test_it_is_another_base_whose_weights_are_those_of_the_checkpoint_rounded(tiny_model):
    whole, rounded = (load_base(held(tiny_model, dtype), LABELS) for dtype in ("float32", "bfloat16"))
    assert whole.fingerprint != rounded.fingerprint
    assert rounded.fingerprint == load_base(held(tiny_model), LABELS).fingerprint
    frozen = dict(whole.model.named_parameters())
    for name, parameter in rounded.model.named_parameters():
        if not name.startswith("head."):
            assert parameter.dtype == torch.bfloat16
            assert torch.equal(parameter, frozen[name].to(torch.bfloat16))


@pytest.mark.parametrize("kind", ["lora", "lora_xs"])
def test_what_trains_stays_float32_and_is_read_as_it_was_written(tiny_model, kind):
    base, written = adapted(tiny_model, kind)
    trains = set_trainable(base.model, ALL)
    assert {parameter.dtype for parameter in trains} == {torch.float32}
    assert {layer.get_base_layer().weight.dtype for _, layer in adapted_layers(base.model)} == {torch.bfloat16}
    found = read(base.model).tensors()
    assert all(torch.equal(found[name], tensor) for name, tensor in written.tensors().items())


@pytest.mark.parametrize("kind", ["lora", "lora_xs"])
def test_clipped_sums_are_those_of_a_loop_over_examples_to_bfloat16_rounding(tiny_model, kind):
    """Each example's gradient is a product in bfloat16; norms, clipping and the sum are in float64."""
    base, _ = adapted(tiny_model, kind)
    settings = held(tiny_model)
    examples = examples_for(base, settings)
    set_trainable(base.model, ALL)
    mechanism = Mechanism(rate=1.0, noise_multiplier=1.0, clip=CLIP, steps=1, expected_batch=5.0)
    protection = Protection(mechanism, SeededSource(0))
    with private_steps(base.model, examples, TrainSettings(), on=settings, protection=protection) as (engine, loss):
        indices = torch.arange(len(examples))
        shapes = torch.tensor(examples.shapes(most=settings.max_tokens))
        assert len(set(shapes.tolist())) == 1
        found = engine.clipped_sum(indices, loss)
        assert {tensor.dtype for tensor in found.values()} == {torch.float64}
    expected = looped_clipped_sum(base.model, loss, indices, CLIP)
    size = max(float(tensor.abs().max()) for tensor in expected.values())
    assert size > 0.01 * CLIP
    off = max(float((found[p] - expected[p]).abs().max()) for p in expected)
    assert off <= 2**-8 * size, "the rounding of one bfloat16 number"


@torch.no_grad()
def test_the_readme_of_the_export_loads_the_base_as_it_was_held(tiny_model, tmp_path):
    base, adapter = adapted(tiny_model)
    named = named_base(held(tiny_model), fingerprint=base.fingerprint, model=base.model)
    export_adapter(
        tmp_path, adapter, total={}, base=named, model=base.model, task="sequence-classification", labels=LABELS,
        max_tokens=16,
    )  # fmt: skip
    pasted = as_its_readme_says(tmp_path, [TEXTS[1], TEXTS[3]], base=tiny_model)
    batch = base.processor([TEXTS[1], TEXTS[3]], padding=True, return_tensors="pt")
    with autocast(held(tiny_model)):
        served = logits(base.model.eval(), batch["input_ids"], batch["attention_mask"])
    assert "dtype=torch.bfloat16" in (tmp_path / "README.md").read_text()
    assert distance(pasted.logits_nc, served) <= 0.02


def test_a_run_learns_on_it_and_says_what_it_was_trained_on(tiny_model, messages, tmp_path):
    recipe = tiny_recipe(tiny_model, messages, "model.load_dtype=bfloat16")
    simulation = prepare(recipe)
    summary = simulate(simulation, tmp_path / "run", watch=lambda event: None)
    assert simulation.loaded_model.model.get_submodule("embeddings.word_embeddings").weight.dtype == torch.bfloat16
    assert "load_dtype: bfloat16" in (tmp_path / "run" / "config.yaml").read_text()
    assert summary


def test_evaluation_is_near_that_of_the_base_in_float32(tiny_model):
    losses = []
    for dtype in ("float32", "bfloat16"):
        settings = held(tiny_model, dtype)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)  # the head
            base = load_base(settings, LABELS)
        batches = examples_for(base, settings).evaluation_batches()
        losses.append(evaluate(base.model, batches, on=settings).loss)
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    assert losses[0] != losses[1]


class Converted(TorchDispatchMode):
    """Which tensors are copied into another dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._to_copy.default:
            self.sources.add(args[0].data_ptr())
        return function(*args, **(kwargs or {}))


def test_no_frozen_matrix_is_converted_in_a_pass_of_a_base_in_bfloat16_and_each_in_one_of_float32(tiny_model):
    def converted(**settings) -> set[str]:
        on = ModelSettings(id=tiny_model, max_tokens=16, **settings)
        model = load_base(on, LABELS).model
        inject(model, AdapterSettings(r=2, alpha=3.0))
        with Converted() as seen, autocast(on):
            logits(model, torch.tensor([[2, 6, 7, 3]])).sum().backward()
        frozen = {
            name: p for name, p in model.named_parameters() if p.ndim == 2 and "lora" not in name and "head" not in name
        }
        return {name for name, parameter in frozen.items() if parameter.data_ptr() in seen.sources}

    assert converted(load_dtype="bfloat16") == set()
    assert len(converted(dtype="bfloat16")) >= 6
