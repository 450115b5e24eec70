"""Attacks by what a message names, and when: models, tokenizers, classes, strategies. `make attack` runs them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from transformers import RobertaConfig, RobertaModel

from client.deployed import respond
from client.messages import read_task, reply_message
from client.settings import ClientSettings
from fedlora.config import ModelSettings
from fedlora.data.row import text_row
from fedlora.models.base import load_base
from fedlora.privacy.policy import SIMULATION
from fedlora.protocol.task import Task
from fedlora.settings import RunError
from fedlora.updates import Factor
from simulations.data.site_files import write_rows
from tests.attack.attack import Gain
from tests.attack.scene import LABELS, asked, charges, counting, messages, run_of, site_with, small_recipe, with_app

PHRASE = "lost"


def tokenizer_query(folder: Path) -> Gain:
    """A model whose normaliser makes a phrase huge, under the fingerprint of one that is allowed."""
    recipe = small_recipe(folder)
    task, blob = run_of(recipe, site_with(folder / "site", messages(60)), folder).task_for_a_new_site()
    crafted = str(crafted_model(Path(recipe.model.id), folder / "crafted"))
    asks = task.model_copy(update={"model": task.model.model_copy(update={"id": crafted})})
    strict = {"coordinators": ["local"], "base_models": [task.fingerprint]}
    heard = set()
    with_phrase = [*messages(59), text_row(f"my bag {PHRASE}", "bad", "")]
    for name, rows in (("without", messages(60)), ("with", with_phrase)):
        site = site_with(folder / name, rows, policy=strict)
        with counting(site.data.train) as opened:
            heard.add((asked(asks, blob, site), opened.times, charges(site)))
    said = "; ".join(f"{what}, the file was opened {times} times, {count} charges" for what, times, count in heard)
    return Gain(said, len(heard) == 1 and {opened for _, opened, _ in heard} == {0})


def crafted_model(honest: Path, folder: Path) -> Path:
    """The same weights; a normaliser that turns one word into 256 others."""
    shutil.copytree(honest, folder)
    rules = json.loads((folder / "tokenizer.json").read_text())
    blow_up = {"type": "Replace", "pattern": {"String": PHRASE}, "content": "late " * 256}
    rules["normalizer"] = {"type": "Sequence", "normalizers": [rules["normalizer"], blow_up]}
    (folder / "tokenizer.json").write_text(json.dumps(rules))
    return folder


def with_model(task: Task, folder: Path, *, max_tokens: int) -> Task:
    """The task on another base model, with the fingerprint that it has."""
    home = load_base(ModelSettings(id=str(folder), max_tokens=8), LABELS)
    model = task.model.model_copy(update={"id": str(folder), "max_tokens": max_tokens})
    return task.model_copy(update={"model": model, "fingerprint": home.fingerprint})


def no_positions(folder: Path) -> Gain:
    """A RoBERTa with 32 positions, of which padding takes two, asked for texts of 32 tokens."""
    recipe = small_recipe(folder)
    task, blob = run_of(recipe, site_with(folder / "site", messages(60)), folder).task_for_a_new_site()
    long = [text_row(" ".join([row["text"]] * 6), row.label, "") for row in messages(60)]
    site = site_with(folder / "long", long)
    told = asked(with_model(task, roberta(Path(recipe.model.id), folder / "roberta"), max_tokens=32), blob, site)
    return Gain(f"{told}, {charges(site)} charges", told != "trained" and charges(site) == 0)


def roberta(honest: Path, folder: Path) -> Path:
    """With the tokenizer of another model, whose padding token is its own."""
    shutil.copytree(honest, folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = RobertaConfig(
            vocab_size=len((folder / "vocab.txt").read_text().split()) if (folder / "vocab.txt").exists() else 32,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=32,
            pad_token_id=0,
        )
        RobertaModel(config).save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**settings, "tokenizer_class": "PreTrainedTokenizerFast"})
    )
    return folder


def other_strategy(folder: Path) -> Gain:
    """A task that calls itself ffa, which the policy allows, and trains A as well."""
    site = site_with(folder / "site", messages(60), policy=allowing(strategies=["ffa"]))
    task, blob = run_of(small_recipe(folder), site, folder).task_for_a_new_site()
    told = asked(task.model_copy(update={"trains": (Factor.A, Factor.B, Factor.DENSE)}), blob, site)
    return Gain(f"{told}, {charges(site)} charges", told != "trained" and charges(site) == 0)


def allowing(**bounds: Any) -> dict[str, Any]:
    """What simulated sites allow, within these bounds."""
    return {**SIMULATION.model_dump(mode="json", exclude_defaults=True), **bounds}


def malformed_row(folder: Path) -> Gain:
    """One row of the file without a class."""
    rows = messages(60)
    site = site_with(folder / "site", rows)
    write_rows(site.data.train, [*rows, text_row("the person", "", "")])
    told = asked(*run_of(small_recipe(folder), site, folder).task_for_a_new_site(), site)
    return Gain(f"the site's answer: {told}", told == "trained")


def cheaper_receipt(folder: Path) -> Gain:
    """A site that trains one step where four are asked, and sends the receipt of that."""
    site = site_with(folder / "site", messages(60))
    run = run_of(small_recipe(folder, "train.steps=4"), site, folder)
    try:
        with_app(run, cheating(site)).go_on(1)
    except RunError as error:
        why = re.findall(r"\(([a-z-]+)\)", str(error))
        return Gain(f"nothing: {', '.join(why)}", any("receipt" in code for code in why))
    return Gain("the update is taken", False)


def cheating(site: ClientSettings) -> ClientApp:
    """Answers a cheaper task than the one that was sent."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        task, blob = read_task(message)
        cheaper = task.model_copy(update={"train": task.train.model_copy(update={"steps": 1})})
        report, update = respond(cheaper, blob, site)
        return reply_message(message, report, update)

    return app
