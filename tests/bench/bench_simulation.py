"""What a simulation costs: start-up, memory and overhead for 10, 100 and 1,000 clients, against plain PEFT training and
against Flower's stock FedAvg with a model built per client message.

    python -m tests.bench.bench_simulation            # every number of clients in a process of its own

Seconds are CPU seconds of this process, all threads: wall time on a shared machine tells of its neighbours. What is
compared alternates in one process, and the least of three turns counts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import AutoModel

from client import trainer as client_trainer
from client.steps.order import shuffled_batches
from client.work import Steps
from fedlora.config import Recipe
from fedlora.models.base import locate
from fedlora.settings import parse
from fedlora.tasks.sequence_classification import HEAD, logits_of
from simulations.local_grid import LocalGrid, run_apps
from simulations.run import Simulation, prepare, simulate

CLIENTS = (10, 100, 1000)
STEPS, BATCH, TRAINED = 5, 16, 10


def recipe(clients: int) -> Recipe:
    """`clients` IID parts of the demo corpus; ten of them train per round."""
    return parse(
        Recipe,
        {
            "data": {"partition": "iid", "clients": clients, "held_out": 64, "test_fraction": 0.001},
            "strategy": {"name": "fedit"},
            "train": {"optimizer": "adamw", "lr": 0.005, "batch_size": BATCH, "steps": STEPS},
            "rounds": {"count": 1, "evaluate_every": 1000},
        },
    )


def one(clients: int) -> dict[str, float]:
    """All measurements for one number of clients."""
    started = time.process_time()
    simulation = prepare(recipe(clients))
    result = {"clients": clients, "start-up CPU s": time.process_time() - started}
    with (
        mock.patch.object(client_trainer, "measured", return_value=None),
        mock.patch("simulations.run.on_held_out", no_test),
    ):
        with mock.patch.object(client_trainer, "take_steps", return_value=Steps(0.0)):
            result["empty round CPU s"] = seconds_of_a_run(simulation, fraction=1.0)
            empty = min(seconds_of_a_run(simulation, fraction=TRAINED / clients) for _ in range(3))
        fraction = TRAINED / clients
        seconds_of_a_run(simulation, fraction=fraction)  # warm
        pairs = [(seconds_of_a_run(simulation, fraction=fraction), plain_peft(simulation)) for _ in range(3)]
    ours, plain = (min(column) for column in zip(*pairs, strict=True))
    ours -= empty  # what is left is training; the round itself is the line above
    result |= {
        "ours CPU s/step": ours / (TRAINED * STEPS),
        "plain PEFT CPU s/step": plain / (TRAINED * STEPS),
        "ratio": ours / plain,
    }
    result["peak MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if clients == CLIENTS[0]:
        stock = stock_flower(simulation)
        result |= {"Flower FedAvg CPU s/step": stock / (TRAINED * STEPS), "Flower / ours": stock / ours}
    return result


def no_test(simulation: Simulation, state: Any) -> Any:
    from fedlora.protocol.task import Evaluation

    return Evaluation(loss=0.0, accuracy=0.0, examples=1)


@contextlib.contextmanager
def without_extras() -> Iterator[None]:
    """What a run does once at its end, however many rounds it had, is no part of a round."""
    with (
        mock.patch("simulations.run.by_client", return_value={}),
        mock.patch("simulations.run.draw_curves"),
    ):
        yield


def seconds_of_a_run(simulation: Simulation, *, fraction: float) -> float:
    """CPU seconds of one round, from the recipe to the written files, without evaluation and pictures."""
    rounds = simulation.recipe.rounds.model_copy(update={"fraction": fraction})
    ready = Simulation(
        simulation.recipe.model_copy(update={"rounds": rounds}), simulation.data, simulation.loaded_model
    )
    with tempfile.TemporaryDirectory() as folder, without_extras():
        started = time.process_time()
        simulate(ready, Path(folder) / "run", watch=lambda event: None)
        return time.process_time() - started


def peft_model() -> PeftModel:
    adapted = get_peft_model(
        AutoModel.from_pretrained(locate("demo")), LoraConfig(r=8, lora_alpha=8, target_modules=["query", "value"])
    )
    adapted.add_module(HEAD, torch.nn.Linear(384, 3))
    return adapted


def plain_peft(simulation: Simulation) -> float:
    """The same number of steps on the same batches with PEFT and torch alone."""
    model = peft_model()
    parts = list(simulation.data.clients.values())[:TRAINED]
    started = time.process_time()
    for part in parts:
        train_plainly(model, part.train)
    return time.process_time() - started


def train_plainly(model: PeftModel, examples: Any) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.005)
    model.train()
    for indices in shuffled_batches(len(examples), BATCH, STEPS, torch.Generator().manual_seed(0)):
        batch = examples.batch(indices)
        logits = logits_of(model, batch)
        torch.nn.functional.cross_entropy(logits, batch["labels"]).backward()
        optimizer.step()
        optimizer.zero_grad()


def stock_flower(simulation: Simulation) -> float:
    """Flower's FedAvg; every client message builds its model, as Flower's LLM examples do."""
    parts = list(simulation.data.clients.values())[:TRAINED]
    client, server = ClientApp(), ServerApp()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        model = peft_model()
        set_peft_model_state_dict(model, message.content["arrays"].to_torch_state_dict())
        train_plainly(model, parts[int(context.node_config["partition-id"])].train)
        arrays = ArrayRecord(get_peft_model_state_dict(model))
        metrics = MetricRecord({"num-examples": 1})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        initial = ArrayRecord(get_peft_model_state_dict(peft_model()))
        FedAvg(fraction_evaluate=0.0).start(grid, initial, num_rounds=1, train_config=ConfigRecord({}))

    started = time.process_time()
    run_apps(server, LocalGrid(client, nodes=TRAINED, run_config={}), {})
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, help="measure this number in this process and print JSON")
    arguments = parser.parse_args()
    if arguments.clients:
        print(json.dumps(one(arguments.clients)))
        return
    for clients in CLIENTS:
        command = [sys.executable, "-m", "tests.bench.bench_simulation", "--clients", str(clients)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        result = json.loads(done.stdout.splitlines()[-1])
        print("  ".join(f"{name} {value:.3g}" for name, value in result.items()), flush=True)


if __name__ == "__main__":
    main()
