"""The ServerApp of a deployed coordinator: the run's folder says what to do, and whether it is a resume.

It finds server.yaml through FEDLORA_SERVER; the bundle's only setting is the run's name.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedlora.config import Recipe, load
from fedlora.data.examples import Examples, encoded
from fedlora.data.row import labels_in
from fedlora.deployment.enrolment import require_name
from fedlora.files import write_atomically
from fedlora.models.base import load_processor, other_fingerprints
from fedlora.models.evaluation import evaluate_examples
from fedlora.models.loaded_model import LoadedModel, loaded_model
from fedlora.plugins.gate import open_to
from fedlora.privacy.signing import SignatureError, require_signed
from fedlora.processes.json_logs import JsonLines
from fedlora.processes.unbegun import end_where_a_thread_cannot_begin
from fedlora.protocol.task import Evaluation
from fedlora.settings import SettingsError
from server.answers import answered, questions, sentence
from server.coordinate import Coordination, coordinate, load_state
from server.orders import StoppedError
from server.record.before import course
from server.record.lines import read_records
from server.record.records import ClientAnswered, Event, RoundFinished, RoundStarted, Waiting
from server.record.summary import summary_of
from server.replies.prompt_grid import PromptGrid
from server.requests.declared import readable, remember
from server.rounds import Evaluate
from server.runs.held_out import classes_of, held_out
from server.runs.preflight import place_of
from server.runs.submissions import read_submission, this_process, write_status, write_submission
from server.settings import ServerSettings, load_server
from server.store.opening import Store, open_store
from server.store.recorder import Recorder
from server.trial import read_trial
from server.trust.provision import LastRegistry, Registry
from strategies.base import State
from strategies.compatibility import case_of, require_compatible

log = logging.getLogger("fedlora.run")

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Begin or resume the run named by the bundle. Whatever stops it is written to its status, then raised."""
    settings = load_server(Path(os.environ["FEDLORA_SERVER"]))
    open_to(settings.plugins)
    folder = settings.runs / require_name(str(context.run_config["run"]), what="run")
    flower_run = str(context.run_id)
    end_where_a_thread_cannot_begin()
    with alone_in(folder):
        log_to_file(folder / "run.log")
        write_status(folder, this_process("running", flower_run))
        try:
            run(PromptGrid(grid), settings, folder)
        except StoppedError as stopped:
            log.info("the run is stopped", extra={"why": str(stopped)})
            write_submission(folder, read_submission(folder).model_copy(update={"wanted": "stopped"}))
            write_status(folder, this_process("failed", flower_run, str(stopped)))
            return
        except BaseException as error:
            log.exception("the run stopped; it can be resumed")
            why = f"{type(error).__name__}: {error}"
            write_status(folder, this_process("failed", flower_run, why))
            raise
        write_status(folder, this_process("finished", flower_run))


def run(grid: Grid, settings: ServerSettings, folder: Path) -> None:
    """The recipe's rounds, from the checkpoint if there is one."""
    recipe = load(folder / "recipe.yaml")
    read = held_out(settings)
    require_compatible(case_of(recipe, place_of(settings)))
    rows = list(read.rows) if read else []
    labels = classes_of(settings, recipe, labels_in(rows))
    examples = encoded(rows, labels, load_processor(recipe.model), on=recipe.model) if rows else None
    judge = examples.task.judge(examples.items, labels) if examples else None
    placed = settings.compute.placed(recipe)
    home = loaded_model(placed.model, placed.adapter, labels)
    others = other_fingerprints(placed.model, labels)
    if others:
        log.warning("sites may hold the base in other forms than the run", extra={"fingerprints": others})
    asked = questions(rows, placed=placed, loaded_model=home)
    store = open_or_go_without(settings)
    recorder = Recorder(store, name=folder.name, kind="deployment", coordinator=settings.name) if store else None
    sites = LastRegistry(settings)
    sites.read()
    needs = Coordination(
        loaded_model=home,
        folder=folder,
        labels=labels,
        fingerprints=others,
        evaluate=evaluation(placed, home, examples) if examples else None,
        evaluates_before=judge is not None and judge.needs_before,
        watch=lambda event: watch(event, settings),
        coordinator=settings.name,
        site_of=lambda node: sites.read().name_of(node),
        verify=lambda node, digest, signature: signed_by(sites.read(), node, digest, signature),
        declared=readable(settings.folder),
        runs=settings.runs,
        compute=settings.compute,
        recorder=recorder,
        trial=read_trial(folder),
    )
    progress = coordinate(grid, recipe, needs, resume=(folder / "checkpoint.safetensors").exists())
    summary = {**summary_of(recipe, progress, folder), "name": folder.name}  # a coordinator's runs share recipes
    if judge is not None:
        summary |= judge.verdict(course(folder, read_records(folder)))
        answers = answered(asked, progress.state, placed=placed, loaded_model=home, folder=folder)
        summary |= answers
        summary["verdict"] += [sentence(found) for found in answers.values()]
    write_atomically(folder / "summary.json", json.dumps(summary, indent=2).encode())


def open_or_go_without(settings: ServerSettings) -> Store | None:
    """A store that cannot be opened costs its record (`fedlora runs import` makes up for it), never the run."""
    try:
        return open_store(settings.store_url)
    except SettingsError as error:
        log.warning("the run cannot be written to the store", extra={"why": str(error)})
        return None


def signed_by(registry: Registry, node: int, digest: bytes, signature: bytes) -> bool:
    """Whether the key that this node was approved for has signed the digest."""
    name = registry.name_of(node)
    if name is None:
        return False
    try:
        require_signed(registry.sites[name].public_key, digest, signature.hex())
    except SignatureError:
        return False
    return True


def evaluation(placed: Recipe, home: LoadedModel, examples: Examples) -> Evaluate:
    """An evaluation of states on the coordinator's test set."""

    def on_held_out(state: State) -> Evaluation:
        load_state(home, "held-out", state)
        return evaluate_examples(home.model, examples, by=placed)

    return on_held_out


def watch(event: Event, settings: ServerSettings) -> None:
    """Log what happens, and remember what a site declares."""
    log_event(event)
    if isinstance(event, ClientAnswered) and event.record.resources is not None:
        remember(settings.folder, event.record.client, event.record.resources)


def log_event(event: Event) -> None:
    """Log one line per event, also while the run waits."""
    match event:
        case Waiting():
            log.info(
                "waiting for clients",
                extra={"connected": event.connected, "needed": event.needed, "seconds_left": round(event.seconds_left)},
            )
        case RoundStarted():
            log.info("round started", extra={"round": event.round, "asked": event.asked})
        case ClientAnswered():
            record = event.record
            log.info(
                "client answered",
                extra={"round": event.round, "client": record.client, "outcome": record.outcome, "code": record.code}
                | ({} if record.why is None else {"why": record.why})
                | ({"skipped_steps": record.skipped_steps} if record.skipped_steps else {})
                | ({} if record.held_as is None else {"base_held_as": record.held_as}),
            )
        case RoundFinished():
            finished = event.record
            quality = finished.evaluation
            log.info(
                "round finished",
                extra={
                    "round": finished.round,
                    "trained": finished.count("trained"),
                    "late": finished.count("late"),
                    "bytes_up": finished.bytes_up,
                    "seconds": round(finished.seconds, 2),
                }
                | ({} if quality is None else {"loss": quality.loss, **quality.metrics}),
            )


def log_to_file(path: Path) -> None:
    """The run's own log beside its records (`fedlora server logs`), and on this process's output."""
    for handler in (logging.FileHandler(path, encoding="utf-8"), logging.StreamHandler(sys.stderr)):
        handler.setFormatter(JsonLines())
        logging.getLogger("fedlora").addHandler(handler)
    logging.getLogger("fedlora").setLevel(logging.INFO)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Refuse a second ServerApp on the same run: two would write one checkpoint."""
    with (folder / "run.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(f"another process is working in {folder}; this one stops.") from None
        yield
