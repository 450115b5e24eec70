"""An existing trainer as a client, in two lines: `client = fedlora.federate(trainer)`, and then one of

    app = client.app                               a Flower ClientApp, which evaluates and trains when it is asked

    while client.is_running():                     one's own loop, which says what happens in a round
        trainer.evaluate()
        trainer.train()

In the loop `is_running` waits for a round, loads what was sent into the trainer's model and freezes what does not
train; its next call sends what was trained. `client.app` is then the messages' way in, in another thread.
"""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import Array, ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from client.federated.answering import answer_of
from client.federated.refusals import policy_of, refuse_privacy, require_allowed, require_trainable
from client.federated.rounds import Between, Continuity
from client.federated.turns import Turns
from client.limits import code_of
from fedlora.own_apps import live
from fedlora.own_apps.receive import Received, receive
from fedlora.own_apps.records import Order
from fedlora.privacy.policy import Policy
from fedlora.privacy.refusal import Refusal
from fedlora.settings import SettingsError
from fedlora.updates import Factor

log = logging.getLogger("fedlora.federated")

CRASHED = 2
"""Flower's code of a ClientApp that failed."""


def federate(
    trainer: Any,
    *,
    between_rounds: Between = "reset",
    policy: Policy | str | Path | None = None,
    folder: str | Path | None = None,
    name: str = "trainer",
    privacy: object = None,
) -> Federated:
    """The client of a `transformers.Trainer`, or of one of TRL's, whose model is a PeftModel.

    `between_rounds`: what becomes of optimiser and schedule (`client.federated.rounds`). `policy`: the site's, as a
    file or the object; Refusal where it trains with privacy only. `folder`: where what a lossy codec drops is kept;
    it ends with the process when not given. SettingsError for a model without LoRA, and for `privacy`, which no such
    trainer can have.
    """
    refuse_privacy(privacy, trainer)
    live.inner(trainer.model)
    held = policy_of(policy)
    require_trainable(held, trainer)
    return Federated(trainer, Continuity(trainer, between_rounds), held, folder, name)


class Federated:
    """See the top of this file."""

    def __init__(
        self, trainer: Any, continuity: Continuity, policy: Policy | None, folder: str | Path | None, name: str
    ) -> None:
        self._trainer = trainer
        self._continuity = continuity
        self._policy = policy
        self._name = name
        self._folder = Path(folder or tempfile.mkdtemp(prefix="fedlora-"))
        if folder is None:
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._turns = Turns()
        self._received: Received | None = None
        self._loss = math.nan
        self.app = self._made_app()
        """The ClientApp."""

    def is_running(self, *, timeout_s: float | None = None) -> bool:
        """Send what was trained, wait for the next round, and load it; False when the last round is over, or `close`
        was called. TimeoutError after so many seconds without a message."""
        if self._received is not None:
            self._turns.answer(self._answered(self._received))
            last = self._received.order is not None and self._received.order.round == self._received.order.rounds
            self._received = None
            if last:
                return False
        while True:
            message = self._turns.next(timeout_s)
            if message is None:
                return False
            try:
                self._received = self._begun(message)
                return True
            except Exception as error:  # whatever it says may carry data: it stays here
                self._turns.answer(refused(error, message))

    def close(self) -> None:
        """End the loop from elsewhere: no further round is waited for."""
        self._turns.close()

    def _made_app(self) -> ClientApp:
        app = ClientApp()

        @app.train()
        def train(message: Message, context: Context) -> Message:
            if self._turns.are_taken:
                content = self._turns.ask(message)
                return content if isinstance(content, Message) else Message(content, reply_to=message)
            try:
                received = self._begun(message)
                self._loss = float(self._trainer.train().training_loss)
                return Message(self._answered(received), reply_to=message)
            except Exception as error:
                return refused(error, message)

        @app.evaluate()
        def evaluate(message: Message, context: Context) -> Message:
            try:
                receive(self._trainer.model, message)
                measured = numbers(self._trainer.evaluate())
                counted = {"num-examples": len(self._trainer.eval_dataset)}
                return Message(RecordDict({"metrics": MetricRecord({**measured, **counted})}), reply_to=message)
            except Exception as error:
                return refused(error, message)

        return app

    def _begun(self, message: Message) -> Received:
        received = receive(self._trainer.model, message)
        if received.order is not None:
            require_allowed(self._policy, received.order)
            self._continuity.before(received.order)
        return received

    def _answered(self, received: Received) -> RecordDict:
        """The answer's records: arrays, and metrics with the number of rows."""
        self._continuity.after()
        order = received.order or plain_order()
        arrays = answer_of(received, order, live.read(self._trainer.model), name=self._name, folder=self._folder)
        record = ArrayRecord({key: Array(a.dtype, a.shape, a.stype, a.data) for key, a in arrays.items()})
        metrics: dict[str, int | float | list[int] | list[float]] = {"num-examples": len(self._trainer.train_dataset)}
        loss = last_loss(self._trainer, self._loss)
        if math.isfinite(loss):
            metrics["train_loss"] = loss
        return RecordDict({"arrays": record, "metrics": MetricRecord(metrics)})


def plain_order() -> Order:
    """For a strategy of Flower's own, which sends no order: A, B and what trains whole, as arrays."""
    return Order(run="0" * 32, strategy="", round=1, trains=(Factor.A, Factor.B, Factor.DENSE))


def refused(error: Exception, message: Message) -> Message:
    """The answer to a message that could not be done: a code. The words stay in this site's log."""
    log.error("a round failed here", exc_info=error)
    if isinstance(error, Refusal):
        code = error.code.value
    else:
        code = "settings" if isinstance(error, SettingsError) else code_of(error)
    return Message(Error(code=CRASHED, reason=code), reply_to=message)


def last_loss(trainer: Any, known: float) -> float:
    """Of a loop of one's own, what its trainer has logged last."""
    logged = [entry["train_loss"] for entry in trainer.state.log_history if "train_loss" in entry]
    return float(logged[-1]) if logged else known


def numbers(metrics: Mapping[str, Any]) -> dict[str, int | float | list[int] | list[float]]:
    """What Flower's MetricRecord takes of a trainer's metrics."""
    return {key: float(value) for key, value in metrics.items() if isinstance(value, int | float)}
