"""One round at a site, from the message to the answer: read this file first on the client's side.

    policy ─► an answer that was given ─► the base that it lists ─► decode, hold, write ─► rehearse on invented examples
           ─► the site's own checks of its file ─► charge the ledger ─► read the examples                  admit
           ─► evaluate, train                                                                              a trainer
           ─► encode ─► keep                                                                               finish

Guarantee, with privacy: nothing that the message names has seen anything of the data before the charge is on the disk.
Whether a task is refused, fails before its charge, and how, depends on the message, the policy, the ledger, the base
model and the site's own checks. After the charge no single example makes it fail.
Nothing about the data leaves but what is returned here: exceptions are logged at the site and leave it as a code.
"""

from __future__ import annotations

import logging
import time
from typing import Literal

import torch

from client.held_form import other_form, require_form
from client.limits import code_of
from client.site import Site
from client.state.base_cache import hold
from client.state.feedback import Feedback, Occasion
from client.state.moments import Moments
from client.state.personal import Personal
from client.state.state_cache import StateCache
from client.steps.packing import require_exact_packing
from client.steps.rehearsed import rehearse_task
from client.trainer import OneByOne, serve
from client.work import NotFiniteError, Start, Trained, Work
from fedlora.adapters import shaped
from fedlora.lowrank import Product
from fedlora.models.evaluation import DivergedError
from fedlora.models.loaded_model import LoadedModel, loaded_model
from fedlora.plugins.gate import open_to
from fedlora.privacy.guard import Answer, AnsweredMeanwhile, Guard
from fedlora.privacy.refusal import Refusal
from fedlora.protocol.task import Report, Task
from fedlora.protocol.versions import recorded_json
from fedlora.settings import SettingsError
from fedlora.updates import Adapter, add, subtract
from fedlora.wire.choice import choose, packing_of
from fedlora.wire.message import Expected, Header, Schema, WireError, decode, encode, state_hash
from fedlora.wire.packing import Packing
from fedlora.wire.state import decode_state
from strategies.asks import require_as_named, require_own_code

log = logging.getLogger(__name__)


def answer(task: Task, blob: bytes, site: Site) -> tuple[Report, bytes | None]:
    """Do the task. Always returns an answer: trained with an update, refused, or failed with a code."""
    started = time.monotonic()
    update: bytes | None = None
    try:
        report, update = train_round(task, blob, site)
    except Exception as error:
        report = failure(task, site, error)
    return report.model_copy(update={"seconds": time.monotonic() - started}), update


def failure(task: Task, site: Site, error: Exception) -> Report:
    """The report of a task that came to nothing: refused, or failed with a code. All else stays in this site's log."""
    outcome: Literal["refused", "failed"] = "refused" if isinstance(error, Refusal) else "failed"
    match error:
        case Refusal():
            log.warning("round %d was refused: %s", task.round, error)
            code: str = error.code
        case WireError():
            code = error.code
        case NotFiniteError() | DivergedError():
            log.error("round %d taught nothing", task.round, exc_info=error)
            code = "not-finite"
        case SettingsError():
            log.error("the task of round %d is not possible with this site's settings", task.round, exc_info=error)
            code = "settings"
        case _:  # whatever it says may carry data: it stays in this site's log
            log.error("round %d failed", task.round, exc_info=error)
            code = code_of(error)
    return Report(client=site.name, outcome=outcome, code=code, round=task.round)


def train_round(task: Task, blob: bytes, site: Site) -> tuple[Report, bytes]:
    """The round itself; a refusal or WireError where it cannot be done. A retried task gets the answer it had."""
    work = admit(task, blob, site)
    if isinstance(work, Answer):
        return Report.model_validate_json(work.report), work.blob
    (trained,) = OneByOne().train([work])
    return finish(work, trained)


def admit(task: Task, blob: bytes, site: Site) -> Work | Answer:
    """Everything up to the site's examples: charged, and on the disk, when this returns. The answer of before, if this
    delivery of the task had one."""
    guard = site.guard()
    require_allowed(task, site, guard)
    finished = guard.answered(task, blob)
    if finished is not None:
        return finished
    placed = site.compute.placed(task)
    home, start = prepared(placed, blob, site, guard)
    site.data.require_readable(home.base, task)
    rows = site.data.ready(private=task.privacy.enabled)
    try:
        grant = guard.authorise(task, blob, examples=len(rows))  # charged and on the disk from here on
    except AnsweredMeanwhile as quicker:
        return quicker.answer
    return Work(task, placed, site, guard, grant, home, start, rows.examples(home.base, task))


def finish(work: Work, trained: Trained) -> tuple[Report, bytes]:
    """The update as it leaves, and the report; both are kept for the same task's next delivery when this returns."""
    task, grant = work.task, work.grant
    update, packing = outward(work, trained)
    report = Report(
        client=work.site.name,
        outcome="trained",
        round=task.round,
        examples=grant.public_examples or len(work.parts.train),
        tokens=work.parts.train.learnt_tokens if work.weighs_tokens else None,
        received=trained.received,
        train_loss=trained.steps.loss if work.tells else None,
        skipped_steps=trained.steps.skipped,
        held_as=other_form(task, work.site),
        base_version=task.base_version,
        receipt=grant.receipt,
        packing=packing,
    )
    kept = work.guard.record(grant, Answer(recorded_json(report), update))
    return Report.model_validate_json(kept.report), kept.blob


def require_allowed(task: Task, site: Site, guard: Guard) -> None:
    """Refuse what policy and site do not allow, before anything that the message names is loaded."""
    guard.require_allowed(task)
    require_form(task, site)
    require_own_code(task, site.policy)
    open_to(site.policy.plugins)
    if site.policy.strategies is not None:
        require_as_named(task)
    site.data.require_declared(task)


def prepared(task: Task, blob: bytes, site: Site, guard: Guard) -> tuple[LoadedModel, Start]:
    """The base model, adapted as received, and what was received. No data, and under privacy a rehearsal without any:
    what cannot be trained is refused here."""
    home = loaded_model(task.model, task.adapter, task.labels)
    guard.require_base(task, fingerprint=home.base.fingerprint)
    start = receive(task, blob, site, home)
    serve(home, task.run, start)
    if task.train.packing and not task.privacy.enabled:
        require_exact_packing(home.model, on=task.model, padding=home.base.padding)
    if task.privacy.enabled:
        rehearse_task(
            home.model,
            (*task.trains, *task.keeps),
            task.train,
            on=task.model,
            privacy=task.privacy,
            padding=home.base.padding,
            rounds=task.planned_rounds,
        )
    return home, start


def receive(task: Task, blob: bytes, site: Site, home: LoadedModel) -> Start:
    """What the message holds, with what the site holds and keeps already."""
    template = shaped(home.template, task.adapter, task.ranks)
    residual: dict[str, Product] = {}
    if task.wire.download == "changes":
        adapter = StateCache(site.folder, task.run).advanced(task, blob, template)
    else:
        adapter, residual = decode_state(blob, template, run=task.run, round_number=task.round)
    base = hold(site.folder, task.run, task.base_version, residual, since=task.residual_since)
    personal = Personal(site.folder, task.run)
    own = personal.merged(adapter, private=task.privacy.enabled, for_round=task.round) if task.keeps else adapter
    return Start(adapter, own, base)


def outward(work: Work, trained: Trained) -> tuple[bytes, Packing]:
    """The packed update of the trained adapter; what the site keeps of it is on its disk when this returns."""
    task, site, received, private = work.task, work.site, work.start.received, work.grant.mechanism is not None
    if task.keeps:
        own = trained.adapter.tensors(task.keeps)
        Personal(site.folder, task.run).keep(own, received=received, after_round=task.round, private=private)
    if task.train.optimizer_state == "keep":
        Moments(site.folder, task.run).keep(trained.steps.moments, after_round=task.round, private=private)
    delta = subtract(trained.adapter.tensors(task.trains), received.tensors(task.trains))
    return pack(task, delta, received, site, private=private)


def pack(
    task: Task, delta: dict[str, torch.Tensor], received: Adapter, site: Site, *, private: bool
) -> tuple[bytes, Packing]:
    """The update as it leaves, and how it was packed. Noise, if any, is in `delta` already: codec, scales, positions
    and what is said of them are made of the noised values.

    What a lossy codec drops stays here and is added next time. The residual is replaced before the answer is recorded:
    a crash in between loses a residual, never doubles one.
    """
    header = Header("update", task.run, task.round, site.name, task.strategy, state_hash(received.tensors()))
    if not (task.wire.lossy and task.wire.error_feedback):
        return encoded(delta, header, task, site)[:2]
    feedback = Feedback(site.folder, task.run)
    now = Occasion(task.round, task.base_version, private)
    before = feedback.residual(
        Schema.of(delta), received, now, decay=task.wire.feedback_decay, used_round=task.used_round
    )
    delta = add(delta, before) if before else delta
    blob, packing, sent = encoded(delta, header, task, site)
    feedback.keep(subtract(delta, sent), received, now, before=before)
    return blob, packing


def encoded(
    delta: dict[str, torch.Tensor], header: Header, task: Task, site: Site
) -> tuple[bytes, Packing, dict[str, torch.Tensor]]:
    """The packed message, its packing report, and what the coordinator will decode."""
    choice = choose(delta, task.wire)
    blob = encode(delta, header, codec=choice.codec, density=choice.quotas, sign=site.sign)
    sent = delta
    if task.wire.lossy:
        sent = decode(blob, Schema.of(delta), Expected("update", task.run, task.round, header.base_hash)).tensors
    return blob, packing_of(choice, delta, sent), sent
