"""A causal language model through whole runs: every strategy, under privacy, resumed, with no head anywhere."""

import json
from unittest import mock

import pytest
from matplotlib.figure import Figure
from safetensors.torch import load_file

from fedlora.settings import SettingsError
from fedlora.tasks.metric import LOSS
from simulations.run import prepare, simulate
from simulations.terminal.pictures import draw_curves
from strategies.registry import STRATEGIES
from tests.chats import chat_recipe, save_chat_model, save_questions, turns
from tests.federations import PRIVATE, metrics_of_two_rounds, named


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("chats")
    return save_chat_model(folder / "model"), save_questions(folder / "questions.jsonl")


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_trains_a_language_model(place, tmp_path, name):
    assert metrics_of_two_rounds(chat_recipe(*place, *named(name)), tmp_path / "run") == {
        "perplexity",
        "token_accuracy",
    }


@pytest.mark.parametrize("strategy", ["fedit", "fedsvd"])
def test_it_learns_under_privacy_with_nothing_that_trains_whole(place, tmp_path, strategy):
    recipe = chat_recipe(*place, *PRIVATE, f"strategy.name={strategy}", "adapter.init=orthonormal")
    summary = simulate(prepare(recipe), tmp_path / "run", watch=lambda event: None)
    assert 0 < summary["loss"] < 20
    adapter = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert all("lora_" in name for name in adapter)
    assert any(tensor.any() for name, tensor in adapter.items() if "lora_B" in name)


def test_rows_that_no_task_reads_are_refused_before_a_model_is_loaded(tmp_path):
    source = tmp_path / "a.jsonl"
    source.write_text("\n".join(json.dumps({"messages": turns("a", str(n)), "client": "p"}) for n in range(30)))
    with pytest.raises(SettingsError, match=r"data\.columns\.prompt='prompt': .* no such column; it has messages"):
        prepare(chat_recipe("no/model", str(source), "data.format=prompt-completion"))
    with pytest.raises(SettingsError, match="deals rows by their class, and these have none"):
        prepare(chat_recipe(save_chat_model(tmp_path / "m"), str(source), "data.partition=label", "data.clients=2"))


def curve_of(folder):
    """The first point of the curve of quality in the picture."""
    drawn = []
    with mock.patch.object(Figure, "savefig", lambda figure, *given, **how: drawn.append(figure)):
        draw_curves(folder, LOSS, title="")
    line = drawn[0].axes[0].lines[0]
    return line.get_xdata()[0], line.get_ydata()[0]


def test_a_run_is_judged_against_the_model_as_it_came_also_when_it_goes_on(place, tmp_path):
    recipe, out = chat_recipe(*place), tmp_path / "run"
    first = simulate(prepare(recipe), out, watch=lambda event: None)
    before = json.loads((out / "before.json").read_text())
    assert before["loss"] > first["loss"]
    assert f"is better than at first: that was {before['loss']:.4g}" in first["verdict"][0]
    assert curve_of(out) == (0, before["loss"])
    longer = chat_recipe(*place, "rounds.count=3")
    assert (
        f"{before['loss']:.4g}" in simulate(prepare(longer), out, watch=lambda event: None, resume=True)["verdict"][0]
    )
    assert json.loads((out / "before.json").read_text()) == before
    (out / "before.json").write_text("{")
    with pytest.raises(SettingsError, match=r"before\.json is damaged; delete it"):
        simulate(prepare(longer), out, watch=lambda event: None, resume=True)
