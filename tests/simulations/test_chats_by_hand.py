"""A federation of questions is what sixty lines of plain transformers, PEFT and torch compute of the same rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from client.steps.order import shuffled_batches
from fedlora.config import Recipe, load
from fedlora.data.rows import read_rows
from fedlora.models.base import locate
from fedlora.protocol.versions import recorded
from fedlora.randomness import generator
from server.record import checkpoint
from simulations.data.partition import assign, columns_of
from simulations.run import prepare, simulate
from tests.chats import chat_recipe, save_chat_model, save_questions

Example = tuple[Tensor, int]
"""Token ids (1, t), and how many of them are the question's."""
START = "base_model.model."
ELSEWHERE = """
import json, sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, adapter, examples = sys.argv[1:]
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
nats = []
with torch.no_grad():
    for ids, asked in json.load(open(examples)):
        logits = model(input_ids=torch.tensor([ids])).logits[0, asked - 1 : -1].float()
        nats.append(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[asked:]), reduction="none"))
assert not [name for name in sys.modules if name.partition(".")[0] == "fedlora"]
print(float(torch.cat(nats).mean()))
"""
"""The loss of an answer's token, by plain transformers and PEFT."""


def read_by_hand(conversation: list[dict[str, str]], tokenizer: PreTrainedTokenizerFast, longest: int) -> Example:
    """One question and one answer, which ends with the end token."""
    asked = tokenizer.apply_chat_template(conversation[:1], tokenize=False, add_generation_prompt=True)
    whole = tokenizer(asked + conversation[1]["content"] + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
    return torch.tensor([whole[:longest]]), len(tokenizer(asked, add_special_tokens=False)["input_ids"])


def answer_nats(model: PeftModel, example: Example) -> Tensor:
    """Of every token of the answer that is left."""
    ids, asked = example
    return functional.cross_entropy(model(input_ids=ids).logits[0, asked - 1 : -1], ids[0, asked:], reduction="none")


def trained_by_hand(model: PeftModel, train: list[Example], recipe: Recipe, stream: torch.Generator) -> None:
    """A client's steps: AdamW, begun afresh; a batch's loss is the mean over its examples of the mean over each."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], recipe.train.lr, weight_decay=0.0)
    for batch in shuffled_batches(len(train), recipe.train.batch_size, recipe.train.steps, stream):
        optimizer.zero_grad()
        torch.stack([answer_nats(model, train[index]).mean() for index in batch]).mean().backward()
        optimizer.step()


def by_hand(recipe: Recipe) -> tuple[dict[str, Tensor], float]:
    """A and B after the last round, and the loss of an answer's token on the shared test set."""
    folder, seed = locate(recipe.model.id), recipe.seed
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = read_rows(recipe.data.source, columns_of(recipe.data, "causal-lm"))
    examples = [read_by_hand(json.loads(row["messages"]), tokenizer, recipe.model.max_tokens) for row in rows]
    shared, clients = assign(rows, recipe.data, seed=seed)
    lora = LoraConfig(r=recipe.adapter.r, lora_alpha=recipe.adapter.alpha, target_modules=["q_proj", "v_proj"])
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), lora)
    live = {name.removeprefix(START): p for name, p in model.named_parameters() if p.requires_grad}
    for name, parameter in live.items():
        layer, _, factor = name.partition(".lora_")
        drawn = torch.rand(parameter.shape, generator=generator(seed, "adapter", layer, "A"))
        parameter.data = (2 * drawn - 1) / parameter.shape[1] ** 0.5 if factor[0] == "A" else torch.zeros_like(drawn)
    state = {name: parameter.detach().clone() for name, parameter in live.items()}

    def weight(train: list[int]) -> int:
        answers = sum(examples[index][0].shape[1] - examples[index][1] for index in train)
        return answers if recipe.strategy.weighs_tokens else len(train)

    for number in range(1, recipe.rounds.count + 1):
        sums = {name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in state.items()}
        for client, (train, _) in clients.items():
            model.load_state_dict({START + name: tensor for name, tensor in state.items()}, strict=False)
            stream = generator(seed, "client", client, "round", number, "batches")
            trained_by_hand(model.train(), [examples[index] for index in train], recipe, stream)
            for name, parameter in live.items():
                sums[name] += weight(train) * parameter.detach()
        everybody = sum(weight(train) for train, _ in clients.values())
        state = {name: (total / everybody).float() for name, total in sums.items()}
    model.load_state_dict({START + name: tensor for name, tensor in state.items()}, strict=False)
    with torch.no_grad():
        nats = torch.cat([answer_nats(model.eval(), examples[index]) for index in shared])
    return state, float(nats.mean())


def require_equal(recipe: Recipe, out) -> None:
    summary = simulate(prepare(recipe), out, watch=lambda event: None)
    found = checkpoint.read(out / "checkpoint.safetensors", recipe=recorded(recipe)).state.adapter.tensors()
    expected, loss_nats = by_hand(recipe)
    assert len(found) == len(expected)
    for name, tensor in expected.items():
        layer, _, factor = name.partition(".lora_")
        torch.testing.assert_close(found[f"{layer}.{factor[0]}"], tensor, rtol=1e-5, atol=1e-5)
    assert summary["loss"] == pytest.approx(loss_nats, rel=1e-5)


def require_carried(recipe: Recipe, folder: Path) -> None:
    """What the run exported gives the run's own loss in a process that knows nothing of fedlora."""
    summary = simulate(prepare(recipe), folder / "run", watch=lambda event: None)
    tokenizer = AutoTokenizer.from_pretrained(locate(recipe.model.id))
    rows = read_rows(recipe.data.source, columns_of(recipe.data, "causal-lm"))
    shared, _ = assign(rows, recipe.data, seed=recipe.seed)
    examples = [
        read_by_hand(json.loads(rows[index]["messages"]), tokenizer, recipe.model.max_tokens) for index in shared
    ]
    (folder / "examples.json").write_text(json.dumps([(ids[0].tolist(), asked) for ids, asked in examples]))
    words = [locate(recipe.model.id), str(folder / "run" / "adapter"), str(folder / "examples.json")]
    found = subprocess.run([sys.executable, "-c", ELSEWHERE, *words], capture_output=True, text=True, check=True)
    assert summary["loss"] == pytest.approx(float(found.stdout), abs=1e-4)


@pytest.mark.slow
def test_an_exported_adapter_gives_the_run_s_loss_to_plain_peft_in_another_process(tmp_path):
    model, questions = save_chat_model(tmp_path / "model"), save_questions(tmp_path / "questions.jsonl")
    require_carried(chat_recipe(model, questions, "strategy.name=fedsvd", "adapter.init=orthonormal"), tmp_path)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_so_does_one_of_the_whole_packaged_model(tmp_path):
    few = ("rounds.count=1", "train.steps=1", "train.batch_size=2", "data.held_out=6")
    require_carried(load("faq", few), tmp_path)


def test_two_rounds_of_fedit_are_the_plain_script_s(tmp_path):
    model, questions = save_chat_model(tmp_path / "model"), save_questions(tmp_path / "questions.jsonl")
    require_equal(chat_recipe(model, questions), tmp_path / "run")


def test_clients_are_weighted_by_the_tokens_of_their_answers_where_a_recipe_says_so(tmp_path):
    model, questions = save_chat_model(tmp_path / "model"), save_questions(tmp_path / "questions.jsonl")
    require_equal(chat_recipe(model, questions, "strategy.weighting=tokens"), tmp_path / "run")


def test_answers_that_are_cut_are_learnt_as_far_as_they_go(tmp_path):
    model, questions = save_chat_model(tmp_path / "model"), save_questions(tmp_path / "questions.jsonl")
    require_equal(chat_recipe(model, questions, "model.max_tokens=27", "train.steps=4"), tmp_path / "run")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_packaged_questions_on_two_layers_of_the_packaged_model_are_the_plain_script_s(tmp_path):
    whole = locate("smollm2")
    AutoModelForCausalLM.from_pretrained(whole, num_hidden_layers=2).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(whole).save_pretrained(tmp_path / "model")
    recipe = chat_recipe(str(tmp_path / "model"), "faq", "model.max_tokens=96", "train.lr=0.004")
    require_equal(recipe, tmp_path / "run")
