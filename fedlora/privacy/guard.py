"""Between the message and the data: policy, budget, charge, answer. What a client's round does with it:

    guard = Guard(site_folder, client=name, dataset=name, policy=load_policy(...), key=load_or_create_key(...))
    guard.require_allowed(task)                                # before anything that the task names is loaded
    if (finished := guard.answered(task, state)) is not None:
        return finished                                        # a retried task: the same bytes, nothing is charged
    guard.require_base(task, fingerprint=...)                  # of the model and the tokenizer that were loaded
    ...                                                        # adapter written, rehearsed on invented examples
    grant = guard.authorise(task, state, examples=len(train))  # raises Refusal; charged and fsynced when it returns
    ...                                                        # grant.mechanism is None: train without privacy
    engine = PrivateEngine(model, grant.mechanism, examples=len(train), source=grant.source(), ...)
    ...
    answer = guard.record(grant, Answer(report_json, blob))    # then send it; grant.receipt goes in the report

Guarantee:
 1. `authorise` returns a private grant only after the ledger holds its charge on the disk.
 2. No value of the task, whoever wrote it, lets the dataset's lifetime ε pass the site's bound, σ fall below the site's
    least, or any other bound of the policy be passed: the task can only ask for more privacy.
 3. A task that was answered gets the same bytes; one that died after its charge is charged again.
 4. Within one run the charges never exceed the run's target ε, nor the number of rounds it was calibrated for.
Everything in the task is untrusted. The number of examples is used for the public size and against δ, and not kept.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from fedlora.files import write_atomically
from fedlora.privacy.accounting import ADJACENCY
from fedlora.privacy.budget import require_delta_below, require_within_budget
from fedlora.privacy.calibration import UnreachableError, public_size
from fedlora.privacy.chain import Entry
from fedlora.privacy.digest import task_digest
from fedlora.privacy.ledger import Ledger, LedgerFiles, exclusive_ledger
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import SecureSource, SeededSource, Source
from fedlora.privacy.policy import Policy, require_allowed, require_loaded_base
from fedlora.privacy.receipt import Receipt, signed_text
from fedlora.privacy.refusal import Code, Refusal
from fedlora.privacy.signing import PrivateKey, load_or_create_key
from fedlora.privacy.spending import Spending, charged_events, order_of
from fedlora.privacy.terms import adapted, mechanism_for, target_of
from fedlora.protocol.task import Task


@dataclass(frozen=True)
class Grant:
    """Permission to train one task; `mechanism` and `receipt` are None if the policy lets it train without privacy."""

    task: str
    mechanism: Mechanism | None = None
    receipt: str | None = None
    public_examples: int | None = None
    """The number of examples that may be reported, and used as the update's weight."""

    insecure_seed: tuple[object, ...] | None = field(default=None, repr=False)

    def source(self) -> Source:
        """Where the noise comes from: the operating system, unless policy and task both said otherwise."""
        return SecureSource() if self.insecure_seed is None else SeededSource(0, *self.insecure_seed)


@dataclass(frozen=True)
class Answer:
    """The answer to one task: kept, so that a retry gets the same bytes."""

    report: str
    blob: bytes

    def packed(self) -> bytes:
        report = self.report.encode()
        return len(report).to_bytes(8, "big") + report + self.blob

    @staticmethod
    def unpacked(content: bytes) -> Answer:
        length = int.from_bytes(content[:8], "big")
        return Answer(content[8 : 8 + length].decode(), content[8 + length :])


class AnsweredMeanwhile(Exception):  # noqa: N818  # nothing is wrong: here is the answer
    """Another process has answered this task first."""

    def __init__(self, answer: Answer) -> None:
        super().__init__("another process answered the task in the meantime")
        self.answer = answer


class Guard:
    """One dataset at one site. See the top of this file."""

    def __init__(self, site: Path, *, client: str, dataset: str, policy: Policy, key: PrivateKey | Path) -> None:
        """`key`: a path is read, or made, when a private task first needs it: one without privacy signs nothing."""
        self._files = LedgerFiles(site, dataset)
        self._client = client
        self._policy = policy
        self._given_key = key

    @cached_property
    def _key(self) -> PrivateKey:
        return load_or_create_key(self._given_key) if isinstance(self._given_key, Path) else self._given_key

    def require_allowed(self, task: Task) -> None:
        """Refuse what the policy forbids, budgets aside; cheap, and needs neither model nor data."""
        require_allowed(self._policy, task, dataset=self._files.dataset)

    def require_base(self, task: Task, *, fingerprint: str) -> None:
        """Refuse a loaded base model, whose fingerprint this is, that is not the coordinator's or not allowed here."""
        require_loaded_base(self._policy, task, fingerprint=fingerprint)

    def answered(self, task: Task, state: bytes) -> Answer | None:
        """What was recorded for this very task, or None."""
        if not task.privacy.enabled:
            return None
        digest = task_digest(task, state)
        with exclusive_ledger(self._files, self._key) as ledger:
            return self._recorded(ledger, digest)

    def _recorded(self, ledger: Ledger, digest: str) -> Answer | None:
        found = next((e for e in ledger.entries if e.kind == "answer" and e.fields["task"] == digest), None)
        if found is None:
            return None
        path = self._files.answer(digest)
        content = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(content).hexdigest() != found.fields["answer"]:
            raise Refusal(
                Code.LEDGER_DAMAGED,
                f"{path} is not the answer that the ledger records as released; restore it, or start a new run.",
            )
        return Answer.unpacked(content)

    def authorise(self, task: Task, state: bytes, *, examples: int) -> Grant:
        """Check the policy, calibrate, check the budgets, charge. Raises Refusal; nothing is charged then.

        AnsweredMeanwhile, and nothing is charged either, where another process has answered this very task.
        """
        self.require_allowed(task)
        digest = task_digest(task, state)
        if not task.privacy.enabled:
            return Grant(digest)
        bounds = self._policy.dataset(self._files.dataset)
        size = bounds.public_examples or _public_size(examples)
        require_delta_below(task.privacy.delta, examples, declared=bounds.public_examples)
        mechanism = calibrated = self._mechanism(task, size)
        target = self._target(task)
        with exclusive_ledger(self._files, self._key) as ledger:
            if (first := self._recorded(ledger, digest)) is not None:
                raise AnsweredMeanwhile(first)
            order = order_of(ledger.entries, task, calibrated, target=target)
            if task.privacy.adapt is not None:
                mechanism = self._adapted(task, calibrated, ledger, order)
            spending = Spending(ledger, task, mechanism, order=order)
            require_within_budget(task, spending, bounds, target=target, dataset=self._files.dataset)
            entry = ledger.append(_charge(task, digest, mechanism, order))
        receipt = self._receipt(task, digest, mechanism, spending, entry)
        seed = task.privacy.insecure_seed
        # The entry's number is in the path: a task that is charged twice never draws the same noise twice.
        path = None if seed is None else (seed, self._client, self._files.dataset, task.round, entry.sequence)
        return Grant(digest, mechanism, signed_text(receipt, self._key), size, path)

    def record(self, grant: Grant, answer: Answer) -> Answer:
        """Keep an answer before it is sent, and return the one to send: on the disk when this returns.

        That is another one where a second process answered the same task meanwhile: the first answer stays.
        """
        if grant.mechanism is None:
            return answer
        path = self._files.answer(grant.task)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = answer.packed()
        with exclusive_ledger(self._files, self._key) as ledger:
            if (first := self._recorded(ledger, grant.task)) is not None:
                return first
            write_atomically(path, content)
            ledger.append({"kind": "answer", "task": grant.task, "answer": hashlib.sha256(content).hexdigest()})
        return answer

    def _target(self, task: Task) -> float | None:
        """The run's ε: the smaller of the recipe's and what the site lets everybody together have in a period."""
        return target_of(task.privacy, self._policy.dataset(self._files.dataset).epsilon_per_period)

    def _mechanism(self, task: Task, size: int) -> Mechanism:
        try:
            return mechanism_for(
                task.privacy,
                task.train,
                size=size,
                most_charges=task.rounds,
                target=self._target(task),
                least_sigma=self._policy.min_noise_multiplier,
            )
        except UnreachableError as error:
            raise Refusal(Code.BUDGET_UNREACHABLE, str(error)) from None

    def _adapted(self, task: Task, calibrated: Mechanism, ledger: Ledger, order: float) -> Mechanism:
        """The mechanism with σ as the task wants it, and with more where the rest of the run's ε asks for more."""
        target = self._target(task)
        assert target is not None  # privacy.adapt has an epsilon
        return adapted(
            calibrated,
            task.privacy,
            charged_events(ledger.entries, run=task.run),
            noise_factor=task.noise_factor,
            most_charges=task.rounds,
            target=target,
            order=order,
            least_sigma=self._policy.min_noise_multiplier,
        )

    def _receipt(self, task: Task, digest: str, mechanism: Mechanism, spending: Spending, entry: Entry) -> Receipt:
        bounds = self._policy.dataset(self._files.dataset)
        assert bounds.epsilon_budget is not None
        return Receipt(
            client=self._client,
            dataset=self._files.dataset,
            run=task.run,
            round=task.round,
            task=digest,
            rate=mechanism.rate,
            noise_multiplier=mechanism.noise_multiplier,
            clip=mechanism.clip,
            steps=mechanism.steps,
            delta=task.privacy.delta,
            epsilon_run=spending.run_epsilon(task.privacy.delta),
            epsilon_lifetime=spending.lifetime_epsilon(spending.counted_at(bounds, task)),
            delta_lifetime=spending.counted_at(bounds, task),
            epsilon_stated=spending.before.stated_epsilon,
            delta_stated=spending.before.stated_delta,
            epsilon_allowed=bounds.epsilon_budget,
            secure=spending.secure,
            sequence=entry.sequence,
            digest=entry.digest,
        )


def _charge(task: Task, digest: str, mechanism: Mechanism, order: float) -> dict[str, Any]:
    return {
        "kind": "charge",
        "task": digest,
        "run": task.run,
        "round": task.round,
        "strategy": task.strategy,
        "coordinator": task.coordinator,
        "mechanism": "poisson-sampled-gaussian",
        "adjacency": ADJACENCY,
        "unit": "example",
        "rate": mechanism.rate,
        "noise_multiplier": mechanism.noise_multiplier,
        "clip": mechanism.clip,
        "steps": mechanism.steps,
        "expected_batch": mechanism.expected_batch,
        "delta": task.privacy.delta,
        "filter_order": order,
        "secure": task.privacy.insecure_seed is None,
    }


def _public_size(examples: int) -> int:
    if examples < 1:
        raise Refusal(Code.TOO_FEW_EXAMPLES, "the site has no training examples; check its data settings.")
    return public_size(examples)
