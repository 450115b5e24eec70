"""A tiny language model of a Flower user's own: PEFT, transformers' Trainer, and a ServerApp around it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from simulations.local_grid import LocalGrid, run_apps

WORDS, LENGTH = 24, 8


def base_model(seed: int = 0) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def peft_model(**settings: Any) -> PeftModel:
    """α/r is 1.5: a scale that is lost is seen."""
    config = LoraConfig(
        **{"r": 2, "lora_alpha": 3, "task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj"]} | settings
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return get_peft_model(base_model(), config)


def rows(client: int, number: int = 12) -> list[dict[str, torch.Tensor]]:
    """Sequences that count up by a step of the client's own."""
    starts = torch.arange(number)
    ids = 1 + (starts[:, None] + (client + 1) * torch.arange(LENGTH)[None]) % (WORDS - 1)
    return [{"input_ids": one, "labels": one.clone()} for one in ids]


def trainer_of(client: int, folder: Path, model: PeftModel | None = None, **arguments: Any) -> Trainer:
    """As a user has one already."""
    given = {
        "output_dir": str(folder), "max_steps": 3, "per_device_train_batch_size": 4, "learning_rate": 0.02,
        "save_strategy": "no", "report_to": [], "disable_tqdm": True, "use_cpu": True, "logging_steps": 1,
    }  # fmt: skip
    return Trainer(
        model=model if model is not None else peft_model(),
        args=TrainingArguments(**given | arguments),
        train_dataset=rows(client),
        eval_dataset=rows(client, 4),
    )


def initial_arrays(model: PeftModel | None = None) -> ArrayRecord:
    return ArrayRecord(get_peft_model_state_dict(model if model is not None else peft_model()))


def run_strategy(strategy: Any, clients: ClientApp, *, nodes: int = 3, **start: Any) -> Any:
    """The Result of a ServerApp whose main is `strategy.start(...)`, on a grid in this process."""
    results = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        results.append(strategy.start(grid=grid, **{"initial_arrays": initial_arrays(), "num_rounds": 2} | start))

    run_apps(server, LocalGrid(clients, nodes=nodes, run_config={}), {})
    return results[0]


def app_by_client(apps: list[ClientApp]) -> ClientApp:
    """One ClientApp for all nodes, each with an app of its own behind it, as every site has."""
    app = ClientApp()

    def forward(message: Message, context: Context) -> Message:
        return apps[int(context.node_config["partition-id"])](message, context)

    app.train()(forward)
    app.evaluate()(forward)
    return app


Answering = Callable[[Message, Context], Message]
