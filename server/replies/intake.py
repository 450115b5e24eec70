"""Answers become updates, each validated by itself: a bad one costs its sender's update and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from flwr.app import Message

from fedlora.config import Recipe
from fedlora.privacy.digest import task_digest
from fedlora.privacy.receipt import Receipt, ReceiptError, require_receipt, signature_in
from fedlora.protocol.task import Report, Task
from fedlora.protocol.versions import recorded_json
from fedlora.tasks.registry import task_named
from fedlora.updates import Adapter, Update
from fedlora.wire.message import Expected, Schema, WireError, decode
from server.record.receipts import Ledgers, require_continues
from server.record.records import BAD_RECEIPT, SCREENED_OUT, ClientAnswered, ClientRecord, EventCallback
from server.replies.messages import BadReplyError, Reply, read_reply
from server.replies.quotas import Meter, content_bytes
from server.requests.outgoing import TrainRequest

SiteOf = Callable[[int], str | None]
"""The site that a node's key was approved for; None for a node that nobody knows."""

Verify = Callable[[int, bytes, bytes], bool]
"""Whether the key that a node is known by has made this signature of this digest."""


LONGEST_WHY = 500

log = logging.getLogger("fedlora.intake")


@dataclass(frozen=True)
class KnownSites:
    """What the coordinator knows of those who answer, and holds their answers against; of a simulation's: nothing."""

    site_of: SiteOf | None = None
    verify: Verify | None = None
    receipts: Ledgers = field(default_factory=dict)
    """The newest receipt of every ledger."""


class ReplyValidator:
    """One round's answers: who trained, refused, failed or was late, and the updates of those that are valid."""

    def __init__(
        self,
        recipe: Recipe,
        number: int,
        sent: Mapping[int, TrainRequest],
        *,
        watch: EventCallback,
        meter: Meter,
        known: KnownSites,
    ) -> None:
        self._recipe = recipe
        self.number = number
        self._sent = sent
        self._watch = watch
        self._known = known
        self._run = next(iter(sent.values())).task.run if sent else ""
        self._bytes_down = {node: len(item.blob) + len(recorded_json(item.task)) for node, item in sent.items()}
        self._meter = meter
        self._meter.begin_round()
        self._nodes: dict[str, int] = {}
        self._handed: list[int] = []
        self._records: dict[int, ClientRecord] = {}
        self.held_versions: dict[int, int] = {}

    @property
    def size(self) -> int:
        """How many clients were asked."""
        return len(self._sent)

    @property
    def first_sent(self) -> TrainRequest:
        """One of the messages: the parts that all have in common are read from it."""
        return next(iter(self._sent.values()))

    @property
    def message_ids(self) -> tuple[str, ...]:
        """The messages that are out, as `asked` was told."""
        return tuple(self._nodes)

    def asked(self, nodes: Mapping[str, int]) -> None:
        """Remember {message id: node id}: answers are attributed by message, not by what a reply claims."""
        self._nodes = dict(nodes)

    @property
    def accepted(self) -> int:
        """How many valid updates have been handed on; those that a robust rule did not keep were valid."""
        return sum(record.outcome == "trained" or record.code == SCREENED_OUT for record in self._records.values())

    def updates(self, replies: Iterable[Message]) -> Iterator[Update]:
        """Hand on every valid update as it arrives; record everything else. A second answer is ignored."""
        for message in replies:
            node = self._nodes.get(message.metadata.reply_to_message_id)
            if node is None:
                continue
            size = content_bytes(message)
            over = self._meter.count(node, size)
            if node in self._records:
                continue
            if over is not None:
                self._refuse(node, over, size)
            update = self._one(node, message) if over is None else None
            self._watch(ClientAnswered(self.number, self._records[node]))
            if update is not None:
                self._handed.append(node)
                yield update

    def judged(self, position: int, *, change_norm: float | None = None, code: str | None = None) -> None:
        """Record how far the update at `position` moves ΔW; with a code, that it was left out."""
        node = self._handed[position]
        record = self._records[node]
        if change_norm is not None:
            record = replace(record, change_norm=change_norm)
        self._records[node] = record if code is None else replace(record, outcome="failed", code=code)

    def records(self) -> tuple[ClientRecord, ...]:
        """Everyone who was asked, by node id; who has not answered by now is late."""
        for node in self._sent.keys() - self._records.keys():
            self._records[node] = ClientRecord(
                self._name(node), node, "late", "no-answer", bytes_down=self._bytes_down[node]
            )
        return tuple(self._records[node] for node in sorted(self._records))

    def _refuse(self, node: int, code: str, size: int) -> None:
        """An answer over a quota: counted, not looked at."""
        self._records[node] = ClientRecord(
            self._name(node), node, "failed", code, bytes_up=size, bytes_down=self._bytes_down[node]
        )

    def _one(self, node: int, message: Message) -> Update | None:
        down = self._bytes_down[node]
        try:
            reply = read_reply(message, round_number=self.number, max_examples=self._recipe.rounds.max_examples)
            if self._known.site_of is not None and reply.report.client != self._known.site_of(node):
                raise BadReplyError("wrong-client")  # a site that speaks in another's name
            if reply.blob is not None and reply.report.base_version != self._sent[node].task.base_version:
                raise BadReplyError("wrong-base-version")
            require_own_metrics(reply.report, self._recipe)
            require_weight(reply.report, self._sent[node].task)
        except BadReplyError as error:
            self._records[node] = ClientRecord(
                self._name(node), node, "failed", error.code, bytes_up=content_bytes(message), bytes_down=down
            )
            return None
        report = reply.report
        update, receipt, outcome, code, why = None, None, report.outcome, report.code, None
        if outcome == "trained":
            try:
                receipt = self._receipt(report, self._sent[node])
                update = Update(report.client, self._weight(reply), self._decode(node, reply))
                self.held_versions[node] = report.base_version
            except ReceiptError as error:
                outcome, code, why = "failed", BAD_RECEIPT, str(error)[:LONGEST_WHY]
                log.warning("a receipt was refused", extra={"client": report.client, "why": why})
            except WireError as error:
                outcome, code = "failed", error.code
        self._records[node] = ClientRecord(
            client=report.client,
            node=node,
            outcome=outcome,
            code=code,
            why=why,
            examples=report.examples,
            bytes_up=reply.bytes_up,
            bytes_down=down,
            seconds=report.seconds,
            received=report.received,
            tokens=report.tokens,
            train_loss=report.train_loss,
            skipped_steps=report.skipped_steps,
            held_as=report.held_as,
            packing=report.packing,
            resources=report.resources,
            machine=report.machine,
            receipt=receipt,
            signature=None if receipt is None else signature_in(report.receipt),
        )
        return update

    def _name(self, node: int) -> str:
        """The name for a node that has not given one itself."""
        return (self._known.site_of(node) if self._known.site_of else None) or str(node)

    def _receipt(self, report: Report, sent: TrainRequest) -> Receipt | None:
        """What the site says it charged; ReceiptError where a private run's update has none that fits."""
        if not self._recipe.privacy.enabled:
            return None
        asked = task_digest(sent.task, sent.blob)
        receipt = require_receipt(
            report.receipt, client=report.client, run=self._run, round_number=self.number, task=asked
        )
        held = self._known.receipts.get((receipt.client, receipt.dataset))
        require_continues(receipt, signature_in(report.receipt), held)
        return receipt

    def _weight(self, reply: Reply) -> float:
        """N_k as reported (or the learnt tokens), up to rounds.max_weight: the strategy decides whether it is used."""
        report, most = reply.report, self._recipe.rounds.max_weight
        claimed = report.examples if report.tokens is None else report.tokens
        return float(claimed if most is None else min(claimed, most))

    def _decode(self, node: int, reply: Reply) -> Adapter:
        """The adapter after local training: what was sent down plus the decoded delta."""
        sent = self._sent[node]
        base = sent.adapter.tensors(sent.task.trains)
        assert reply.blob is not None  # read_reply: an update that was trained has one
        verify = None if self._known.verify is None else partial(self._known.verify, node)
        message = decode(
            reply.blob,
            Schema.of(base),
            Expected(
                kind="update",
                run=sent.task.run,
                round=self.number,
                base_hash=sent.base_hash,
                max_norm=self._recipe.rounds.max_update_norm,
            ),
            verify=verify,
        )
        if message.header.client != reply.report.client:
            raise WireError("wrong-client")  # an update that another site has made
        return sent.adapter.with_tensors(message.added_to(base))


def require_own_metrics(report: Report, recipe: Recipe) -> None:
    """BadReplyError for a measurement of other figures than those of the run's task."""
    own = {metric.name for metric in task_named(recipe.model.task).metrics}
    if report.received is not None and report.received.metrics.keys() != own:
        raise BadReplyError("malformed-report")


def require_weight(report: Report, task: Task) -> None:
    """BadReplyError for an update without the count that it was asked to weigh by, with one that nobody asked for, or
    with more tokens than so many examples can have: like more examples than there can be, they would own the mean."""
    if report.outcome != "trained":
        return
    if (report.tokens is not None) != (task.weigh_by == "tokens"):
        raise BadReplyError("malformed-report")
    if report.tokens is not None and not 1 <= report.tokens <= report.examples * task.model.max_tokens:
        raise BadReplyError("tokens-out-of-range")
