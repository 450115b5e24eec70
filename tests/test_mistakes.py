"""Mistakes typed on purpose: each is answered by a message that names the thing and the way out, no traceback."""

from __future__ import annotations

import shlex

import pytest
from typer.testing import CliRunner

from fedlora.cli import app
from fedlora.plain_yaml import yaml_text
from fedlora.settings import RunError, SettingsError
from tests.federations import save_messages, save_tiny_model, tiny_recipe

MISTAKES = [
    ("simulat six-airlines", "No such command 'simulat'"),
    ("simulate six-airline", "Did you mean six-airlines?"),
    ("simulate nothing.yaml", "`fedlora recipes` lists"),
    ("simulate .", "cannot read the recipe"),
    ("simulate --engin ray", "Did you mean '--engine'?"),
    ("simulate R --engine spark", "choose one of local, ray"),
    ("simulate R --set train.lr", "write it as key=value"),
    ("simulate R --set train.lr=abc", "train.lr must be a valid number"),
    ("simulate R --set train.lr=0,01", "train.lr must be a valid number, got '0,01'; write 0.01."),
    ("simulate R --set train.lr=-,5e-3", "write -.5e-3."),
    ("simulate R --set train.lr=1,000", "write 1.000 or 1000."),
    (
        "simulate R --set rounds.count=1,000,000",
        "rounds.count must be a valid integer, got '1,000,000'; write 1000000.",
    ),
    ("simulate R --set rounds.count=2,5", "rounds.count must be a valid integer, got '2,5'."),
    ("simulate R --set data.held_out=0,2", "such as 500; got '0,2'; write 0.2."),
    ("simulate R --set train.lr=0", "train.lr must be greater than 0, got 0"),
    ("simulate R --set train.lr=nan", "train.lr must be a finite number"),
    ("simulate R --set train.learning_rate=1", "did you mean train.lr?"),
    ("simulate R --set train.epochs=3", "did you mean train.local_epochs?"),
    ("simulate R --set train.gradient_accumulation_steps=4", "did you mean train.batch_size? It is how many examples"),
    ("simulate R --set train.warmup_ratio=0.1", "did you mean train.warmup?"),
    ("simulate R --set train.local_epochs=2", "give one: train.local_epochs without train.steps"),
    ("simulate R --set train.warmup=1.5", "a whole number of rounds; got 1.5"),
    ("simulate R --set train.warmup=3", "is not below the 3 rounds of the run"),
    ("simulate R --set train.schedule=cosin", "train.schedule must be 'constant', 'linear' or 'cosine'"),
    ("simulate R --set train.schedule=cosine --set train.min_lr_rate=0", "train.min_lr_rate must be greater than 0"),
    ("simulate R --set train.proximal_mu=4", "from 2 on SGD's steps overshoot"),
    ("simulate R --set train.optimizer_state=keep", "moments of the round before would mean nothing"),
    (
        "simulate R --set train.optimizer_state=keep --set train.optimizer=torch.optim:RMSprop",
        "knows what sgd and adamw remember, and nothing of torch.optim:RMSprop; use one of them",
    ),
    ("simulate R --set strategy.weighting=tokens", "model.task=sequence-classification has none"),
    (
        "simulate R --set train.steps=null --set train.local_epochs=1 --set privacy.epsilon=3",
        "what a site is charged for would tell it. Use train.steps",
    ),
    ("simulate R --set trian.lr=3", "did you mean train?"),
    ("simulate R --set train.optimizer=adam", "'adam' is no optimiser; did you mean 'adamw'?"),
    ("simulate R --set train.optimizer=adamw --set train.momentum=0.9", "has no effect with train.optimizer=adamw"),
    ("simulate R --set strategy.name=fedsdv", "did you mean 'fedsvd'?"),
    ("simulate R --set strategy.name=fedsb", "set adapter.kind=lora_xs"),
    ("simulate R --set adapter.r=0", "adapter.r must be greater than or equal to 1"),
    ("simulate R --set adapter.r=10000", "adapter.r=10000 is above the smaller side"),
    ("simulate R --set adapter.targets=[querry]", "did you mean 'query'?"),
    ("simulate R --set adapter.layers=[99]", "layer 99 has nothing to adapt"),
    ("simulate R --set model.id=./nowhere", "./nowhere"),
    ("simulate R --set model.device=cuda:7", "not available on this machine; use cpu"),
    ("simulate R --device cuda:7", "not available on this machine; use cpu"),
    ("simulate R --dtype float64", "dtype must be 'float32' or 'bfloat16', got 'float64'"),
    ("simulate R --set model.dtype=float64", "model.dtype must be 'float32' or 'bfloat16'"),
    ("simulate R --set model.max_tokens=100000", "lower it"),
    ("simulate R --set data.source=missing.csv", "there is no such file or folder"),
    ("simulate R --set data.text=txt", "has no such column; did you mean 'text'?"),
    ("simulate R --set data.text_column=text", "did you mean data.text?"),
    ("simulate R --set data.clients=4", "data.clients=4 has no effect with data.partition=natural"),
    ("simulate R --set data.held_out=1000000", "data.held_out=1000000 takes all of the"),
    ("simulate R --set data.held_out=1.0", "give a share between 0 and 1, such as 0.1, or a whole number of texts"),
    ("simulate R --set rounds.count=0", "rounds.count must be greater than or equal to 1"),
    ("simulate R --set rounds.min_clients=50", "the data have 4 clients; lower it"),
    ("simulate R --set rounds.quorum=2", "rounds.quorum must be less than or equal to 1"),
    ("simulate R --set privacy.epsilon=0", "privacy.epsilon must be greater than 0"),
    ("simulate R --set privacy.epsilon=3 --set adapter.dropout=0.1", "Remove adapter.dropout"),
    ("simulate R --set privacy.epsilon=3 --set privacy.delta=1", "privacy.delta must be less than 1"),
    ("simulate R --set privacy.epsilon=3 --set data.max_examples=10", "Use data.train_fraction"),
    ("simulate R --set wire.codec=int3", "wire.codec must be 'fp32'"),
    ("simulate R --set wire.density=2", "wire.density must be less than or equal to 1"),
    ("simulate R --set seed=one", "seed must be a valid integer"),
    ("simulate R --resume", "start the run without --resume"),
    ("simulate D", "is a data file, not a recipe. Write a recipe for it with: fedlora init"),
    ("init nothing.csv", "there is no such file or folder"),
    ("init airlines", "which has recipes already"),
    ("init D --out nowhere/recipe.yaml", "there is no folder nowhere; create it first"),
    ("init D --out M", "already exists; give --force"),
    ("init D --text txt", "--text 'txt': "),
    ("init D --label lable", "did you mean 'label'?"),
    ("init D --label client --client client", "--label and --client name one column twice"),
    ("init D --text label --label text", "--label 'text' has 160 different values in 160 rows; a class has"),
    ("init D --model ./nowhere", "model.id='./nowhere' is not a folder"),
    ("find-lr nothing.yaml", "`fedlora recipes` lists"),
    ("find-lr R --rates 0.1", "write two or more rates separated by commas"),
    ("find-lr R --rounds 0", "0 is not in the range x>=1"),
    ("find-lr private-ffa", "Choose the rate on public data"),
    ("compare R --seeds a,b", "write whole numbers separated by commas"),
    ("compare R --sweep train.lr", "write it as key=value1,value2"),
    ("compare nothing", "cannot read the recipe nothing"),
    ("config check R --set train.momentum=0.9 --set train.optimizer=adamw", "has no effect with train.optimizer=adamw"),
    ("config check R --set adapter.dropout=0.1 --set privacy.epsilon=3", "Remove adapter.dropout"),
    ("wire plan R --set strategy.name=fedsb", "set adapter.kind=lora_xs"),
    ("config show trian", "there is no section 'trian'; there are:"),
    ("config show data.heldout", "there is no setting 'data.heldout'; did you mean data.held_out?"),
    ("privacy plan --epsilon -1 --examples 100", "privacy.epsilon must be greater than 0"),
    ("ledger show nowhere", "contains no ledger"),
    ("client doctor", "fedlora client enroll"),
    ("client up", "cannot read client.yaml"),
    ("server up", "cannot read server.yaml"),
    ("server run R", "cannot read server.yaml"),
    ("admin approve request.json", "cannot read server.yaml"),
    ("dashboard --port 99999", "99999 is not in the range 1<=x<=65535"),
]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mistakes")
    asked = tiny_recipe(save_tiny_model(folder / "model"), save_messages(folder / "messages.csv"))
    path = folder / "recipe.yaml"
    path.write_text(yaml_text(asked.model_dump(mode="json")))
    return path


@pytest.mark.parametrize(("typed", "said"), MISTAKES, ids=[typed for typed, _ in MISTAKES])
def test_a_mistake_is_answered_with_the_way_out(recipe, tmp_path, monkeypatch, typed, said):
    monkeypatch.chdir(tmp_path)
    stands_for = {"R": recipe, "D": recipe.parent / "messages.csv", "M": recipe.parent / "messages.csv"}
    words = [str(stands_for.get(word, word)) for word in shlex.split(typed)]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "200", "FEDLORA_STORE": "none"})
    assert result.exit_code != 0
    assert isinstance(result.exception, SettingsError | RunError | SystemExit), repr(result.exception)
    assert said in " ".join(f"{result.exception} {result.output}".split())
    assert not (tmp_path / "runs").exists(), "nothing was begun"
