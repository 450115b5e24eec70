"""The ClientApp of a deployed site: client.yaml is found through FEDLORA_SITE; data are tokenised once, and stay."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.farewell import remember_node
from client.limits import code_of
from client.machine import this_machine
from client.messages import read_task, reply_message, unreadable
from client.round import answer
from client.settings import ClientSettings, load_client
from client.site import Site
from fedlora.config import ModelSettings
from fedlora.examples import Examples, tokenise
from fedlora.machine import Machine
from fedlora.models import load_tokenizer
from fedlora.privacy.guard import Guard
from fedlora.privacy.policy import Policy, load_policy
from fedlora.privacy.refusal import Refusal
from fedlora.privacy.signing import load_key, load_or_create_key, sign
from fedlora.randomness import generator
from fedlora.rows import Columns, Row, read_rows
from fedlora.settings import SettingsError
from fedlora.task import Report, Task

log = logging.getLogger(__name__)

TEST_SHARE = 10
"""One in so many examples is kept apart when the site names no test file."""

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer one task. Whatever goes wrong is logged here and leaves as a code."""
    settings = load_client(Path(os.environ["FEDLORA_SITE"]))
    remember_node(settings, context.node_id)
    try:
        task, blob = read_task(message)
    except (ValueError, KeyError, TypeError) as error:
        log.error("a message is not understood: %s", error)
        return reply_message(message, unreadable(message, error, client=settings.site), None)
    report, update = respond(task, blob, settings)
    return reply_message(message, introduced(report, task, settings), update)


def respond(task: Task, blob: bytes, settings: ClientSettings) -> tuple[Report, bytes | None]:
    """The site's answer to a task. The policy is asked before a file is opened or a model loaded for it."""
    if len(blob) > settings.largest_message_mib * 1024 * 1024:
        return _failed(settings, "message-too-large", task.round), None
    task = placed(task, settings)
    try:
        policy = policy_of(settings)
        guard_of(settings, policy).require_allowed(task)
        site = site_of(settings, policy, task)
    except Refusal as refusal:
        log.warning("round %d is refused: %s", task.round, refusal)
        return Report(client=settings.site, outcome="refused", code=refusal.code, round=task.round), None
    except SettingsError:
        log.exception("round %d cannot be done with this site's settings", task.round)
        return _failed(settings, "settings", task.round), None
    except Exception as error:  # whatever it says may carry data: it stays in this site's log
        log.exception("round %d failed", task.round)
        return _failed(settings, code_of(error), task.round), None
    return answer(task, blob, site)


_told: set[str] = set()
"""Runs in which this process has said what the site can carry, and with what it works."""


def introduced(report: Report, task: Task, settings: ClientSettings) -> Report:
    """The report, with the site's resources and machine in the first answer of a run that this process gives."""
    if task.run in _told:
        return report
    _told.add(task.run)
    return report.model_copy(update={"resources": settings.resources, "machine": machine_of(task, settings)})


def machine_of(task: Task, settings: ClientSettings) -> Machine | None:
    """Versions and device; None where the site keeps them to itself, or where they cannot be said."""
    if not settings.tell_machine:
        return None
    try:
        return this_machine(placed(task, settings).model.device)
    except Exception:  # no answer is lost for it
        log.exception("this machine could not be described")
        return None


def placed(task: Task, settings: ClientSettings) -> Task:
    """The task on this site's own device."""
    if settings.device is None:
        return task
    return task.model_copy(update={"model": task.model.model_copy(update={"device": settings.device})})


def policy_of(settings: ClientSettings) -> Policy:
    """The site's policy; a file that client.yaml names must be there."""
    if settings.policy is None:
        return Policy()
    if not settings.policy.exists():
        raise SettingsError(f"the policy {settings.policy} that client.yaml names is missing; nothing is trained.")
    return load_policy(settings.policy)


def guard_of(settings: ClientSettings, policy: Policy) -> Guard:
    """What stands between a message and the data."""
    settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = load_or_create_key(settings.state / "privacy" / "key.pem")
    return Guard(settings.state, client=settings.site, dataset=settings.data.dataset, policy=policy, key=key)


def site_of(settings: ClientSettings, policy: Policy, task: Task) -> Site:
    """The site with its data as this task's model reads them."""
    files = (settings.data.train, settings.data.test)
    changed = tuple(file.stat().st_mtime_ns for file in files if file is not None and file.exists())
    private = task.privacy.enabled
    train, test = examples(settings, task.model, task.labels, changed, ignore_unusable=private)
    return Site(
        settings.site,
        train,
        test,
        settings.state,
        dataset=settings.data.dataset,
        policy=policy,
        sign=signer(settings.node_key),
    )


def signer(node_key: Path) -> Callable[[bytes], bytes] | None:
    """Signs with the key that the site enrolled with; None before it has one, and no coordinator takes its updates."""
    if not node_key.exists():
        return None
    key = load_key(node_key)
    return lambda digest: bytes.fromhex(sign(key, digest))


@lru_cache(maxsize=2)
def examples(
    settings: ClientSettings,
    model: ModelSettings,
    labels: tuple[str, ...],
    changed: tuple[int, ...],
    *,
    ignore_unusable: bool = False,
) -> tuple[Examples, Examples]:
    """Training and test examples, tokenised; read again only when a file has changed (`changed`: their times).

    Under privacy a row that the run cannot use is kept and ignored: a task that failed by it would tell, before
    anything is charged, that there is a row with this label or this word.
    """
    tokenizer = load_tokenizer(model)

    def tokenised(rows: list[Row]) -> Examples:
        return tokenise(rows, labels, tokenizer, max_tokens=model.max_tokens, ignore_unusable=ignore_unusable)

    train, test = split(settings)
    return tokenised(train), tokenised(test)


def split(settings: ClientSettings) -> tuple[list[Row], list[Row]]:
    """Rows to train and to test on; SettingsError where there are too few."""
    train = rows_of(settings, settings.data.train)
    if settings.data.test is not None:
        return train, rows_of(settings, settings.data.test)
    if len(train) < 2:
        raise SettingsError(f"{settings.data.train} has {len(train)} distinct example(s); a site needs two or more.")
    order = order_of(settings.site, len(train))
    tests = max(1, len(train) // TEST_SHARE)
    return [train[index] for index in sorted(order[tests:])], [train[index] for index in sorted(order[:tests])]


def order_of(site: str, count: int) -> list[int]:
    """An order of the site's examples that is the same in every run, so that test examples are never trained on."""
    order: list[int] = torch.randperm(count, generator=generator(0, "site", site, "test")).tolist()
    return order


def rows_of(settings: ClientSettings, file: Path) -> list[Row]:
    """The distinct rows of one of the site's files."""
    data = settings.data
    if not file.exists():
        raise SettingsError(f"the data {file} that client.yaml names are not there; mend `train` or `test` under data.")
    return read_rows(str(file), Columns(data.text, data.label))


def _failed(settings: ClientSettings, code: str, round_number: int) -> Report:
    return Report(client=settings.site, outcome="failed", code=code, round=round_number)
