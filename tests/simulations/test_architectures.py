"""Nineteen architectures, from a recipe file to an adapter that plain PEFT loads: two rounds each, plain and private.

Tiny models with random weights. Three of them run in the fast suite, a BERT's relative, a decoder whose layers are no
`nn.Linear` and a model without attention, four in the slow one, all of them in `make test-long`.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fedlora.config import Recipe, load
from fedlora.data.examples import encoded
from fedlora.data.row import text_row
from fedlora.protocol.versions import recorded
from fedlora.settings import SettingsError
from fedlora.tasks.sequence_classification import logits_of
from server.coordinate import load_state
from server.record import checkpoint
from simulations.run import Simulation, prepare, simulate
from tests.exported import as_its_readme_says, distance
from tests.privacy.architectures import save

NAMES = (
    "bert", "roberta", "distilbert", "albert", "electra", "mpnet", "modernbert", "longformer", "gpt2", "gpt_neox",
    "opt", "bloom", "falcon", "llama", "qwen2", "gemma2", "phi3", "mixtral", "mamba",
)  # fmt: skip
FAST = ("roberta", "gpt2", "mamba")
SLOW = ("modernbert", "longformer", "llama", "mixtral")
TEXTS = ("word2 word9 word31", "word3", "word40 word2 word17 word3 word55 word8 word21 word10 word11")

SEQUENCE_FIRST = (
    r"got an input of shape \(8, 2, 16\) where dim 0 must be the 2 examples.*leave this layer out of adapter"
)
REFUSED_PRIVATELY = {
    ("longformer", "attention"): rf"\(LongformerModel\).*layer\.0\.attention\.self\.query\S* {SEQUENCE_FIRST}",
    ("xlnet", "all-linear"): rf"\(XLNetModel\).*layer\.0\.ff\.layer_1\S* {SEQUENCE_FIRST}",
    (
        "deberta",
        "attention",
    ): r"\(DebertaV2Model\).*query_proj\S* got an input of shape \(1, 64, 16\).*leave this layer",
    ("opt", "all-linear"): r"\(OPTModel\).*layers\.0\.fc1\S* got an input of shape \(16, 16\).*leave this layer out",
}
"""(architecture, adapter.targets): the trained layer that is not given one row an example, and what is said of it."""


def some(names: tuple[str, ...]) -> list:
    left_out = [pytest.mark.slow, pytest.mark.long]
    marks = {**dict.fromkeys(FAST, ()), **dict.fromkeys(SLOW, pytest.mark.slow)}
    return [pytest.param(name, marks=marks.get(name, left_out)) for name in names]


@pytest.fixture(scope="module")
def messages(tmp_path_factory) -> Path:
    """Two clients' texts of tokens that the tiny tokenizers know; the class is told by one word."""
    draw, lines = random.Random(0), ["text,label,client"]
    for number in range(48):
        words = [f"word{draw.randrange(10, 60)}" for _ in range(draw.randint(2, 9))]
        words.insert(draw.randrange(len(words) + 1), ("word2", "word3")[number % 2])
        lines.append(f"{' '.join(words)},{('bad', 'good')[number % 2]},{('north', 'south')[number // 24]}")
    path = tmp_path_factory.mktemp("data") / "messages.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def recipe_for(name: str, folder: Path, messages: Path, *lines: str, targets: str = "attention") -> Recipe:
    """A recipe file in `folder`, read as a person's is."""
    file = folder / "recipe.yaml"
    written = [
        f"model: {{id: {save(name, folder / 'model')}, max_tokens: 32}}",
        f"adapter: {{r: 2, alpha: 16, targets: {targets}}}",
        f"data: {{source: {messages}, held_out: 8, test_fraction: 0.2}}",
        "strategy: {name: fedit}",
        "train: {lr: 0.5, batch_size: 8, steps: 2}",
        "rounds: {count: 2, grace_s: 0.2, deadline_s: 60.0, wait_s: 0.2}",
        *lines,
    ]
    file.write_text("\n".join(written) + "\n")
    return load(file)


def run(recipe: Recipe, out: Path) -> tuple[Simulation, dict]:
    simulation = prepare(recipe)
    return simulation, simulate(simulation, out, watch=lambda event: None)


def require_same_logits(simulation: Simulation, out: Path) -> None:
    """Of the served model and of the exported folder; and what was trained is seen in them."""
    home = simulation.loaded_model
    load_state(home, "test", checkpoint.read(out / "checkpoint.safetensors", recipe=recorded(simulation.recipe)).state)
    labels = simulation.data.labels
    examples = encoded(
        [text_row(text, labels[0], "") for text in TEXTS], labels, home.base.processor, on=simulation.recipe.model
    )
    batch = examples.batch(range(len(TEXTS)))
    served_nc = logits_of(home.model.eval(), batch).detach()
    pasted = as_its_readme_says(out / "adapter", TEXTS, base=simulation.recipe.model.id)
    assert distance(pasted.logits_nc, served_nc) <= 1e-5
    assert distance(pasted.without_adapter_nc, served_nc) > 1e-3
    assert pasted.printed == str([labels[number] for number in served_nc.argmax(-1).tolist()])


@pytest.mark.parametrize("name", some(NAMES))
def test_an_architecture_trains_and_its_export_gives_the_served_logits_in_plain_peft(name, tmp_path, messages):
    simulation, summary = run(recipe_for(name, tmp_path, messages), tmp_path / "run")
    assert (summary["rounds"], summary["clients"]) == (2, 2)
    require_same_logits(simulation, tmp_path / "run")


@pytest.mark.parametrize("name", some(tuple(name for name in NAMES if (name, "attention") not in REFUSED_PRIVATELY)))
def test_an_architecture_trains_privately_and_its_export_gives_the_served_logits(name, tmp_path, messages):
    simulation, summary = run(recipe_for(name, tmp_path, messages, "privacy: {epsilon: 8.0}"), tmp_path / "run")
    assert summary["rounds"] == 2
    assert 7.5 < summary["epsilon_max"] <= 8.0
    require_same_logits(simulation, tmp_path / "run")


@pytest.mark.parametrize(("name", "targets"), REFUSED_PRIVATELY)
def test_what_the_private_engine_cannot_bound_is_refused_before_the_run_with_the_layer(
    name, targets, tmp_path, messages
):
    recipe = recipe_for(name, tmp_path, messages, "privacy: {epsilon: 8.0}", targets=targets)
    with pytest.raises(SettingsError, match=REFUSED_PRIVATELY[name, targets]):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    prepare(recipe_for(name, tmp_path, messages, targets=targets))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "targets"), [("deberta", "[value_proj]"), ("longformer", "[output.dense]")])
def test_without_that_layer_among_the_targets_it_trains_privately(name, targets, tmp_path, messages):
    recipe = recipe_for(name, tmp_path, messages, "privacy: {epsilon: 8.0}", targets=targets)
    require_same_logits(run(recipe, tmp_path / "run")[0], tmp_path / "run")


def test_a_learning_rate_that_moves_nothing_privately_is_refused_before_the_run(tmp_path, messages):
    recipe = recipe_for("bert", tmp_path, messages, "privacy: {epsilon: 8.0}")
    still = recipe.model_copy(update={"train": recipe.train.model_copy(update={"lr": 1e-12})})
    with pytest.raises(SettingsError, match=r"with privacy .*does not change the weights.*set another train\.lr"):
        prepare(still)


def test_an_attention_without_layers_is_refused_with_what_could_be_adapted_and_that_trains(tmp_path, messages):
    """XLNet keeps its projections as plain parameters."""
    with pytest.raises(
        SettingsError,
        match=r"'attention' matches no matrix of this model: q, k, v, o, r, .* of its XLNetRelativeAttention are plain "
        r"parameters.*called: layer_1, layer_2\. Name those to adapt in adapter\.targets, or all-linear",
    ):
        prepare(recipe_for("xlnet", tmp_path, messages))
    simulation, _ = run(recipe_for("xlnet", tmp_path, messages, targets="all-linear"), tmp_path / "run")
    require_same_logits(simulation, tmp_path / "run")
