"""The ClientApp of a deployed site: client.yaml is found through FEDLORA_SITE; data are read once, and stay."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.flower.deregister import remember_node
from client.limits import code_of
from client.machine import this_machine
from client.messages import read_task, reply_message, unreadable
from client.offline import stay_offline
from client.own_rows import OwnRows, own_rows, require_classes, require_own_name, require_task, require_usable
from client.round import answer
from client.settings import ClientSettings, load_client
from client.site import Parts, Site
from fedlora.config import ModelSettings
from fedlora.data.chosen_columns import columns_for
from fedlora.data.examples import Examples, encoded
from fedlora.data.lengths import said_of_cutting
from fedlora.data.row import Row
from fedlora.models.base import Base
from fedlora.privacy.policy import Policy, load_policy
from fedlora.privacy.signing import load_key, sign
from fedlora.protocol.machine import Machine
from fedlora.protocol.task import Report, Task
from fedlora.settings import SettingsError
from fedlora.tasks.base import Processor
from fedlora.tasks.registry import has_tags, task_named
from fedlora.tasks.tags.scheme import require_tags

log = logging.getLogger(__name__)

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer one task. Errors are logged here and leave the site only as a code."""
    try:
        settings = load_client(Path(os.environ["FEDLORA_SITE"]))
        stay_offline(settings)  # an executor of Flower's own has not asked for it
        remember_node(settings, context.node_id)
    except Exception:  # Flower would send its text
        log.exception("this site's own settings or files prevent every task")
        raise RuntimeError("settings") from None
    try:
        task, blob = read_task(message)
    except (ValueError, KeyError, TypeError) as error:
        log.error("a message cannot be read: %s", error)
        return reply_message(message, unreadable(message, error, client=settings.site), None)
    report, update = respond(task, blob, settings)
    return reply_message(message, introduced(report, task, settings), update)


def respond(task: Task, blob: bytes, settings: ClientSettings) -> tuple[Report, bytes | None]:
    """The site's answer to a task. No file is opened, and no model loaded, before the policy was asked."""
    if len(blob) > settings.max_message_mib * 1024 * 1024:
        return _failed(settings, "message-too-large", task.round), None
    try:
        site = site_of(settings)
    except SettingsError:
        log.exception("round %d is not possible with this site's settings", task.round)
        return _failed(settings, "settings", task.round), None
    except Exception as error:
        log.exception("round %d failed", task.round)
        return _failed(settings, code_of(error), task.round), None
    return answer(task, blob, site)


_told: set[str] = set()
"""Runs in which this process has already declared the site's resources and machine."""


def introduced(report: Report, task: Task, settings: ClientSettings) -> Report:
    """The report; this process's first answer in a run also declares the site's resources and machine."""
    if task.run in _told:
        return report
    _told.add(task.run)
    return report.model_copy(update={"resources": settings.told_resources, "machine": machine_of(task, settings)})


def machine_of(task: Task, settings: ClientSettings) -> Machine | None:
    """Versions and device; None if the site does not report them or they cannot be read."""
    if not settings.tell_machine:
        return None
    try:
        return this_machine(settings.device or task.model.device)
    except Exception:  # no answer is lost for it
        log.exception("the description of this machine could not be read")
        return None


def policy_of(settings: ClientSettings) -> Policy:
    """The site's policy; a file that client.yaml names must be there."""
    if settings.policy is None:
        return Policy()
    if not settings.policy.exists():
        raise SettingsError(f"the policy {settings.policy} that client.yaml names is missing; nothing is trained.")
    return load_policy(settings.policy)


def site_of(settings: ClientSettings) -> Site:
    """The site as client.yaml and policy.yaml describe it; its data are not read yet."""
    settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Site(
        settings.site,
        Files(settings),
        settings.state,
        dataset=settings.data.dataset,
        policy=policy_of(settings),
        sign=signer(settings.node_key),
        compute=settings.compute,
    )


@dataclass(frozen=True)
class Files:
    """A deployed site's data (`client.site.Data`): the files that client.yaml names, read when a round comes to it."""

    settings: ClientSettings

    def require_declared(self, task: Task) -> None:
        require_task(self.settings, task.model.task)
        if has_tags(task.model.task):
            require_tags(task.labels)
        require_classes(self.settings, task.labels)

    def require_readable(self, base: Base, task: Task) -> None:
        data = self.settings.data
        task_named(data.task).require_readable(columns_for(data, data.task).form, base.processor)

    def ready(self, *, private: bool) -> FileRows:
        own = own_rows(self.settings)
        if private:
            require_usable(self.settings, own)
            require_own_name(self.settings, own)
        require_both(self.settings, own)
        return FileRows(own)


@dataclass(frozen=True)
class FileRows:
    """What the files held when they were read (`client.site.Rows`)."""

    own: OwnRows

    def __len__(self) -> int:
        return len(self.own.train)

    def examples(self, base: Base, task: Task) -> Parts:
        private = task.privacy.enabled
        return tokenised(
            self.own.train, self.own.test, base.processor, task.labels, on=task.model, ignore_unusable=private
        )


def signer(node_key: Path) -> Callable[[bytes], bytes] | None:
    """A signer with the key that the site enrolled with; None before enrolment, when no coordinator accepts updates."""
    if not node_key.exists():
        return None
    key = load_key(node_key)
    return lambda digest: bytes.fromhex(sign(key, digest))


@lru_cache(maxsize=2)
def tokenised(
    train: tuple[Row, ...],
    test: tuple[Row, ...],
    processor: Processor,
    labels: tuple[str, ...],
    *,
    on: ModelSettings,
    ignore_unusable: bool,
) -> Parts:
    """Training and test examples as this processor reads them, once.

    Under privacy a row that the run cannot use is kept and ignored: a task that failed by it would tell that there is a
    row with this label or this word, and no noise would cover it.
    """

    def read(part: Sequence[Row]) -> Examples:
        return encoded(part, labels, processor, on=on, ignore_unusable=ignore_unusable)

    parts = Parts(read(train), read(test))
    if train and not train[0].form.images:
        log.info("texts to train on: %s", said_of_cutting(train, parts.train, processor, on=on))
    return parts


def require_both(settings: ClientSettings, own: OwnRows) -> None:
    """SettingsError where there is nothing to train or to test on."""
    if not own.train or not own.test:
        raise SettingsError(
            f"{settings.data.train} has {len(own.train)} example(s) to train on and {len(own.test)} to test on "
            f"({own.counts}); a site needs some of both."
        )


def _failed(settings: ClientSettings, code: str, round_number: int) -> Report:
    return Report(client=settings.site, outcome="failed", code=code, round=round_number)
