"""What every task promises: those of the registry, and one that is dropped in as a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from peft.auto import MODEL_TYPE_TO_PEFT_MODEL_MAPPING
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForTokenClassification,
)

from fedlora.adapters import initial_adapter, inject, read, set_trainable, write
from fedlora.adapters.dense import mark_dense
from fedlora.adapters.inject import adapted_layers
from fedlora.config import AdapterSettings, ModelSettings
from fedlora.config.preference import PreferenceSettings
from fedlora.data.examples import COMPANIES, Examples
from fedlora.models.reference import referred
from fedlora.privacy.engine import PrivateEngine
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import SeededSource
from fedlora.protocol.task import Evaluation
from fedlora.settings import SettingsError, parse
from fedlora.tasks.answering.multiple_choice import chosen_of
from fedlora.tasks.answering.unpaired_preference import UnpairedPreference, judged
from fedlora.tasks.answers import item_of
from fedlora.tasks.base import IGNORED, SAMPLES, Item, TaskKind
from fedlora.tasks.inputs.tokens import vocabulary_of
from fedlora.tasks.preference import Preference, pair_of
from fedlora.tasks.registry import TASKS, task_named
from fedlora.tasks.usage import Loading
from fedlora.tasks.verdict import STANDINGS
from fedlora.updates import Factor
from tests.fedlora.tasks.image_classification import ImageClassification
from tests.pictures import VIT
from tests.privacy.architectures import CONFIGS
from tests.privacy.models import looped_clipped_sum

LONGEST, CLIP = 16, 0.05


def texts(vocabulary: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randint(2, vocabulary, (tokens,), generator=draw) for tokens in (9, 4, 13, 6, 2)]


def labelled(model: nn.Module) -> list[Item]:
    return [{"input_ids": ids, "labels": torch.tensor(n % 3)} for n, ids in enumerate(texts(vocabulary_of(model)))]


def answered(model: nn.Module) -> list[Item]:
    return [item_of(ids.tolist(), [True] * len(ids)) for ids in texts(vocabulary_of(model))]


def preferred(model: nn.Module) -> list[Item]:
    """Pairs of unlike lengths."""
    sides = answered(model)
    return [pair_of(one, other) for one, other in zip(sides, [*sides[2:], *sides[:2]], strict=True)]


def judged_alone(model: nn.Module) -> list[Item]:
    """Good and bad answers in turn."""
    return [judged(item, good=number % 2 == 0) for number, item in enumerate(answered(model))]


def chosen(model: nn.Module) -> list[Item]:
    """Questions with two choices or three."""
    sides = [ids.tolist() for ids in texts(vocabulary_of(model))]
    return [chosen_of(sides[n], sides[n - 1], *sides[: n % 2], answer=n % 2) for n in range(len(sides))]


def tagged(model: nn.Module) -> list[Item]:
    """Words of one piece and of two, under the tags O, B and I."""
    items = []
    for ids in texts(vocabulary_of(model)):
        place = torch.arange(len(ids))
        labels = (ids % 3).where((place % 3 != 1) & (place > 0), IGNORED)
        items.append({"input_ids": ids, "labels": labels, "codes": torch.arange(3)})
    items[4]["labels"][1] = 1
    return items


def pictures(model: nn.Module) -> list[Item]:
    draw = torch.Generator().manual_seed(1)
    images = torch.randn(5, model.config.num_channels, 16, 16, generator=draw)
    return [{"pixel_values": image, "labels": torch.tensor(number % 3)} for number, image in enumerate(images)]


@dataclass(frozen=True)
class Case:
    """A task, a tiny model for it, and examples."""

    task: TaskKind
    build: Callable[[], nn.Module]
    items: Callable[[nn.Module], Sequence[Item]]


CASES = {
    "sequence-classification": Case(
        task_named("sequence-classification"), lambda: AutoModel.from_config(CONFIGS["bert"]), labelled
    ),
    "causal-lm": Case(task_named("causal-lm"), lambda: AutoModelForCausalLM.from_config(CONFIGS["llama"]), answered),
    "preference": Case(
        Preference(parse(PreferenceSettings, {"beta": 0.5, "label_smoothing": 0.1})),
        lambda: AutoModelForCausalLM.from_config(CONFIGS["llama"]),
        preferred,
    ),
    **{
        f"preference, {loss}": Case(
            Preference(parse(PreferenceSettings, {"beta": 0.5, "loss": loss})),
            lambda: AutoModelForCausalLM.from_config(CONFIGS["llama"]),
            preferred,
        )
        for loss in ("orpo", "kto")
    },
    "unpaired-preference": Case(
        UnpairedPreference(parse(PreferenceSettings, {"beta": 0.5, "undesirable_weight": 1.5, "reference_point": 0.2})),
        lambda: AutoModelForCausalLM.from_config(CONFIGS["llama"]),
        judged_alone,
    ),
    "multiple-choice": Case(
        task_named("multiple-choice"), lambda: AutoModelForCausalLM.from_config(CONFIGS["llama"]), chosen
    ),
    "token-classification": Case(
        task_named("token-classification"),
        lambda: AutoModelForTokenClassification.from_config(CONFIGS["bert"]),
        tagged,
    ),
    "image-classification": Case(task_named("image-classification"), lambda: AutoModel.from_config(VIT), pictures),
    "image-classification, dropped in": Case(
        ImageClassification(), lambda: AutoModelForImageClassification.from_config(VIT), pictures
    ),
}


def ready(case: Case) -> tuple[nn.Module, Examples]:
    """Adapted, with B away from zero, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = case.build()
        model.eval()
        case.task.prepare(model, longest=LONGEST, outputs=3)
        mark_dense(model, case.task.dense)
        settings = AdapterSettings(r=2)
        inject(model, settings)
        write(model, initial_adapter(model, settings, seed=0))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.3)
    whole = Examples(case.items(model), case.task, 0)
    return model, referred(model, whole, on=parse(ModelSettings, {"max_tokens": LONGEST}), at_once=2)


@pytest.fixture(params=CASES)
def case(request) -> Case:
    return CASES[request.param]


def test_every_task_of_the_registry_is_tried_here():
    assert not (TASKS.keys() - CASES.keys()), "give each a `Case` in CASES: the task, a tiny model, examples"


def test_what_it_calls_dense_is_there_has_no_adapter_and_is_all_that_trains_beside_adapters(case):
    model, _ = ready(case)
    for path in case.task.dense:
        assert model.get_submodule(path)
        assert not any(name == path or name.startswith(f"{path}.") for name, _ in adapted_layers(model))
    assert {name.partition("/")[0] for name in read(model).dense} == set(case.task.dense)
    trainable = set_trainable(model, (Factor.DENSE,))
    assert len(trainable) == len(read(model).dense)


def test_an_example_s_loss_is_its_own_whatever_stands_beside_it_and_however_it_is_padded(case):
    model, examples = ready(case)
    everyone = range(len(examples))
    with torch.no_grad():
        together = case.task.losses(model, examples.batch(everyone))
        padded = case.task.losses(model, examples.batch(everyone, length=LONGEST))
        alone = torch.cat([case.task.losses(model, examples.batch([index])) for index in everyone])
    assert together.shape == (len(examples),)
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(padded, alone, atol=1e-6, rtol=1e-6)


def test_the_private_engine_sums_what_a_loop_over_examples_does(case):
    model, examples = ready(case)
    set_trainable(model, Factor)
    indices = torch.arange(len(examples))

    def loss(chosen: torch.Tensor) -> torch.Tensor:
        return case.task.losses(model, examples.batch(chosen.tolist(), length=LONGEST))

    expected = looped_clipped_sum(model, loss, indices, clip=CLIP)
    mechanism = Mechanism(rate=1.0, noise_multiplier=1.0, clip=CLIP, steps=1, expected_batch=float(len(examples)))
    with PrivateEngine(model, mechanism, examples=len(examples), source=SeededSource(0)) as engine:
        found = engine.clipped_sum(indices, loss)
    assert found.keys() == expected.keys()
    for parameter, total in expected.items():
        torch.testing.assert_close(found[parameter], total, atol=1e-6 * CLIP * len(examples), rtol=1e-5)


def test_what_is_ignored_has_no_loss_and_moves_nothing(case):
    model, examples = ready(case)
    parameters = set_trainable(model, Factor)
    ignored = case.task.ignored(examples.items[0])
    assert case.task.usable(model)(ignored)
    batch = case.task.collate([ignored, examples.items[1]], padding=0)
    losses = case.task.losses(model, batch)
    assert losses[0] == 0
    gradients = torch.autograd.grad(losses[0], parameters, allow_unused=True)
    assert not any(gradient is not None and gradient.any() for gradient in gradients)


def test_what_is_measured_is_what_is_named_and_adds_up(case):
    model, examples = ready(case)
    with torch.no_grad():
        first, second, whole = (
            case.task.measure(model, examples.batch(part)) for part in ([0, 1], [2, 3, 4], [0, 1, 2, 3, 4])
        )
    names = {metric.name for metric in case.task.metrics}
    assert whole.keys() == {"loss", *names}
    assert case.task.compare_by.name in whole
    for name in whole:
        assert (first[name] + second[name]).value == pytest.approx(whole[name].value, rel=1e-5)


def test_its_judge_says_where_a_run_stands_and_knows_a_diverged_one(case):
    _, examples = ready(case)
    judge = case.task.judge(examples.items, ("a", "b", "c"))

    def evaluation(loss: float, score: float) -> Evaluation:
        return Evaluation.of({**dict.fromkeys((m.name for m in case.task.metrics), score), "loss": loss}, examples=5)

    course = [evaluation(1.0, 0.5), None, evaluation(0.2, 1.0)]
    assert judge.verdict([None])["verdict"] == []
    found = judge.verdict(course)
    assert found["test_examples"] == len(examples)
    assert found["standing"].startswith("better")
    assert "better" in found["verdict"][0]
    lost = judge.verdict([*course, evaluation(9.0, 0.0)])
    assert (lost["standing"], lost["verdict"][0][:11]) == ("diverged", "It diverged")
    assert {found["standing"], lost["standing"]} <= set(STANDINGS)
    assert judge.learning([1.0, 9.0], 0.0) == "diverged"
    assert judge.learning([1.0, 0.2], 1.0) == "learns"
    assert judge.learning([1.0, 1.05], 0.0) == "does not learn"


def test_invented_examples_come_in_two_companies_and_have_a_loss(case):
    model, _ = ready(case)
    examples = Examples(case.task.sample(model, longest=LONGEST, padding=0), case.task, 0)
    assert len(examples) == SAMPLES
    assert all(map(case.task.usable(model), examples.items))
    shapes = examples.shapes(most=LONGEST)
    assert all(len({shapes[index] for index in company}) == 1 for company in COMPANIES)
    with torch.no_grad():
        assert (case.task.losses(model, examples.batch(range(SAMPLES))) > 0).all()


def test_the_script_that_uses_a_result_is_python_and_loads_it_by_the_class_that_the_task_does(case):
    usage = case.task.usage
    loading = Loading((f"from transformers import {usage.auto}",), 'folder = base = "."', ', revision="0123"')
    script = usage.script(loading, labels=("a", "it's {b}"), max_tokens=LONGEST)
    compile(script, "README.md", "exec")
    assert usage.auto == case.task.auto.__name__
    assert '"it\'s {b}"' in script or "labels" not in usage.lines
    assert usage.peft_task is None or usage.peft_task in MODEL_TYPE_TO_PEFT_MODEL_MAPPING
    assert usage.owns_dense == all(hasattr(case.build(), path) for path in case.task.dense) or not case.task.dense


def test_a_name_that_is_no_task_is_refused_with_the_nearest():
    with pytest.raises(SettingsError, match=r"'sequence_classification' is no task; did you mean 'sequence-class"):
        parse(ModelSettings, {"task": "sequence_classification"})


def test_a_model_with_a_module_of_the_task_s_name_is_refused_and_keeps_it():
    model = CASES["sequence-classification"].build()
    model.add_module("head", nn.Linear(2, 2))
    own = model.head
    with pytest.raises(SettingsError, match=r"BertModel has a module `head` of its own"):
        task_named("sequence-classification").prepare(model, longest=LONGEST, outputs=3)
    assert model.head is own
