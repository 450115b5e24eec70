"""The loop: read this file first.

    configure_train   sample clients (seeded by round) ── one message each ──►  clients
    aggregate_train   strategy.combine(updates as they arrive) ─► strategy.step ─► evaluate ─► record ─► checkpoint

A bad, late, dead or lying client costs its own update, never the round. Too few valid updates stop the run with an
error, and nothing has changed: the checkpoint is that of the round before.

It is a Flower `Strategy`, so a Flower user can call `Rounds(...).start(grid)` in a ServerApp of their own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from logging import INFO

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fedlora.config import Recipe
from fedlora.config.schedule import rate_of_round
from fedlora.protocol.task import Evaluation
from fedlora.randomness import chooser
from fedlora.tasks.registry import task_named
from server.orders import NoControl, RunControl
from server.record.checkpoint import Progress
from server.record.downlink import Downlink, held_after, used_after
from server.record.figures import mean_received, metrics, served_error
from server.record.journal import Journal
from server.record.records import (
    ClientAnswered,
    Event,
    EventCallback,
    RoundFinished,
    RoundRecord,
    RoundStarted,
    TasksSent,
    Waiting,
)
from server.replies.arrivals import Deadlines, arrivals, push, wait_for_clients
from server.replies.intake import KnownSites, ReplyValidator, SiteOf, Verify
from server.replies.quorum import quorum_of, too_few
from server.replies.quotas import Meter
from server.requests.adaptive_noise import noise_factor
from server.requests.outgoing import RunConstants, TrainRequest, outgoing
from server.stages.base import Round, through
from server.stages.listing import stages_of
from server.stages.robust.fit import require_enough
from strategies.base import Combined, State, Strategy
from strategies.compatibility import Case, Place, require_compatible

Evaluate = Callable[[State], Evaluation]
"""Quality of a state on the shared test set."""


@dataclass(frozen=True)
class RunContext:
    """What the loop touches outside itself."""

    journal: Journal
    evaluate: Evaluate | None = None
    watch: EventCallback = lambda event: None
    site_of: SiteOf | None = None
    """In a deployment, the site behind a node: an answer in another name is refused."""
    verify: Verify | None = None
    """In a deployment, whether the site behind a node has signed an update: others are refused, unread."""
    orders: RunControl = field(default_factory=NoControl)
    """What people ask of the run while it runs."""


@dataclass(frozen=True)
class Asked:
    """A round between its messages and its answers."""

    intake: ReplyValidator
    downlink: Downlink | None

    def stages_see(self, stop: Callable[[str], Exception]) -> Round:
        """The round as its stages see it."""
        intake = self.intake
        first = intake.first_sent
        return Round(intake.number, first.adapter, tuple(first.task.trains), intake.judged, stop)


class Rounds(FlowerStrategy):
    """Runs a recipe's rounds from `progress` on. `progress` is the only thing that changes, once a round."""

    def __init__(
        self, recipe: Recipe, brief: RunConstants, strategy: Strategy, progress: Progress, run_context: RunContext
    ) -> None:
        require_compatible(Case(recipe, strategy, Place(evaluates=run_context.evaluate is not None)))
        self.recipe = recipe
        self.strategy = strategy
        self.progress = progress
        self._brief = brief
        self._run_context = run_context
        self._named: dict[int, str] = {}
        self._meter = Meter(recipe.quotas, run_context.journal.bytes_up())
        self._stages = stages_of(recipe)
        self._asked: Asked | None = None

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord | None = None,
        num_rounds: int | None = None,
        timeout: float | None = None,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run the rounds that are left; `num_rounds` and `timeout` (seconds a round) override the recipe's.

        The adapter comes from `progress` and the settings from the recipe: Flower's other arguments are not used.
        Raises QuorumError or MissingClientsError when a round cannot be completed.
        """
        result = Result()
        while self.progress.round < (num_rounds or self.recipe.rounds.count):
            number = self.progress.round + 1
            self._run_context.orders.before_round(number)
            messages = list(self.configure_train(number, ArrayRecord(), ConfigRecord(), grid))
            replies = self._arrivals(grid, self._open(number), messages, timeout)
            result.arrays, result.train_metrics_clientapp[number] = self.aggregate_train(number, replies)
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message for each sampled client: evaluate this state, then train from it."""
        rounds = self.recipe.rounds
        connected = wait_for_clients(
            grid,
            at_least=rounds.min_clients,
            wait_s=rounds.wait_s,
            waiting=lambda *now: self._waiting(*now),
            admits=self._admits,
        )
        asked = self.recipe.asks(len(connected))
        require_enough(self.recipe, server_round, asked, self.progress.state.adapter)
        nodes = sorted(chooser(self.recipe.seed, "round", server_round).sample(connected, asked))
        around = self._run_context
        sent, downlink = outgoing(
            self.recipe, self._brief_now(), self.strategy, self.progress, nodes=nodes, number=server_round
        )
        known = KnownSites(around.site_of, around.verify, around.journal.receipts())
        answered = partial(self._answered, sent)
        intake = ReplyValidator(self.recipe, server_round, sent, watch=answered, meter=self._meter, known=known)
        self._asked = Asked(intake, downlink)
        around.watch(RoundStarted(server_round, len(nodes)))
        if self.recipe.privacy.enabled:  # on the disk before anything can be charged for it
            around.journal.sent.post(server_round, [(node, self._site(node), sent[node].digest) for node in nodes])
        return [Message(sent[node].content, dst_node_id=node, message_type=MessageType.TRAIN) for node in nodes]

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord, MetricRecord]:
        """Read the answers once, as they arrive; validate everything, then change `progress`, then store it."""
        started = time.monotonic()
        asked, old = self._open(server_round), self.progress
        intake, downlink = asked.intake, asked.downlink
        this = asked.stages_see(lambda why: too_few(intake, self.recipe, why))
        updates = through(self._stages, intake.updates(replies), this)
        first = next(updates, None)
        if first is None:
            raise too_few(intake, self.recipe)
        combined = self.strategy.combine(chain([first], updates))
        if intake.accepted < quorum_of(self.recipe, intake.size):
            raise too_few(intake, self.recipe)
        if self.recipe.privacy.client_level is not None:
            self._run_context.journal.count_noised(server_round)
        state = self.strategy.step(old.state, combined)
        record = RoundRecord(
            round=server_round,
            clients=intake.records(),
            aggregation_error=self._served_error(combined, old.state, state),
            evaluation=self._evaluate(intake, state),
            base_version=state.base_version,
            download_left_out=downlink.left_out if downlink else None,
            lr=rate_of_round(self.recipe, server_round),
            seconds=time.monotonic() - started,
        )
        self.progress = replace(
            old,
            round=server_round,
            state=state,
            held_versions={**old.held_versions, **intake.held_versions},
            downlink=downlink,
            held_rounds=held_after(old.held_rounds, record.clients, server_round) if downlink else {},
            used_rounds=used_after(old.used_rounds, record.clients, server_round),
            bytes_up=old.bytes_up + record.bytes_up,
            bytes_down=old.bytes_down + record.bytes_down,
        )
        self._run_context.journal.keep(record, self.progress)
        self._named |= {client.node: client.client for client in record.clients}
        self._run_context.watch(RoundFinished(record))
        return ArrayRecord(state.adapter.tensors()), metrics(record)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Nothing: a client evaluates what it received in the message that it trains from."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing: see `configure_evaluate`."""
        return None

    def summary(self) -> None:
        """Say what is about to run, in Flower's log."""
        log(INFO, "\t%s: %s, %s rounds", self.recipe.name, self.recipe.strategy.name, self.recipe.rounds.count)

    def _open(self, number: int) -> Asked:
        """The round that was configured last; ValueError where that was not this one."""
        if self._asked is None or self._asked.intake.number != number:
            raise ValueError(f"round {number} was not configured: call configure_train before aggregate_train.")
        return self._asked

    def _arrivals(self, grid: Grid, asked: Asked, messages: list[Message], timeout: float | None) -> Iterable[Message]:
        rounds, intake = self.recipe.rounds, asked.intake
        intake.asked(push(grid, messages))
        self._run_context.watch(TasksSent(intake.number))
        needed: float = max(quorum_of(self.recipe, intake.size), self.recipe.robust.least_updates)
        if self.recipe.privacy.client_level is not None:
            needed = math.inf  # the deadline alone closes a round: no client's answer decides whose others are summed
        deadlines = Deadlines(needed, timeout or rounds.deadline_s, rounds.grace_s)
        return arrivals(
            grid,
            intake.message_ids,
            deadlines,
            valid=lambda: intake.accepted,
            meanwhile=self._run_context.orders.during_round,
        )

    def _served_error(self, combined: Combined, old: State, new: State) -> float | None:
        """None under client-level privacy (it depends on single updates without noise), with a server optimiser,
        without a global model, and where a rule serves no mean of updates; else against those that were let in."""
        means = all(stage.serves_the_mean for stage in self._stages) and combined.measured
        if self.strategy.traits.keeps or not means:
            return None
        return served_error(combined, old, new)

    def _brief_now(self) -> RunConstants:
        """The brief, with the noise that the rounds so far call for."""
        adapt = self.recipe.privacy.adapt
        if adapt is None:
            return self._brief
        metric = task_named(self.recipe.model.task).compare_by
        factor = noise_factor(adapt, metric, self._run_context.journal.values(metric.name))
        return replace(self._brief, noise_factor=factor)

    def _evaluate(self, intake: ReplyValidator, state: State) -> Evaluation | None:
        if self.strategy.traits.keeps:
            return mean_received(intake.records())
        rounds, number = self.recipe.rounds, intake.number
        due = number % rounds.evaluate_every == 0 or number == rounds.count
        return self._run_context.evaluate(state) if self._run_context.evaluate and due else None

    def _admits(self, node: int) -> bool:
        """Whether the node's site is asked; where nobody knows the sites behind nodes, by the name it last gave."""
        excluded = self._run_context.orders.excluded()
        return not excluded or self._site(node) not in excluded

    def _site(self, node: int) -> str | None:
        """The site behind a node; where nobody knows, the name that it last gave."""
        return (self._run_context.site_of or self._named.get)(node)

    def _answered(self, sent: Mapping[int, TrainRequest], event: Event) -> None:
        """A receipt is kept whatever becomes of its round."""
        if isinstance(event, ClientAnswered) and event.record.receipt is not None:
            node, signature = event.record.node, event.record.signature
            key = None if signature is None else signature.public_key
            self._run_context.journal.sent.confirm(event.round, node, sent[node].digest, event.record.receipt, key)
        self._run_context.watch(event)

    def _waiting(self, connected: int, seconds_left: float) -> None:
        self._run_context.orders.between_rounds()
        self._run_context.watch(Waiting(connected, self.recipe.rounds.min_clients, seconds_left))
