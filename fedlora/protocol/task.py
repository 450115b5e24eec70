"""Task and report: what the coordinator asks of one client in one round, and what the client reports with its update.

Both travel as JSON inside a Flower ConfigRecord, next to one packed blob (`fedlora.wire`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_serializer, model_validator

from fedlora.config import AdapterSettings, DeviceSettings, ModelSettings, TrainSettings
from fedlora.config.model import LoadDtype
from fedlora.config.privacy import PrivacySettings
from fedlora.config.wire import WireSettings
from fedlora.factor import Factor
from fedlora.protocol.machine import Machine
from fedlora.protocol.versions import Since
from fedlora.settings import Settings
from fedlora.wire.packing import Packing

# Names inside a Flower message, and the type that makes a stock strategy fail loudly instead of averaging bytes.
TASK_RECORD, REPORT_RECORD, BLOB_RECORD = "task", "report", "blob"
JSON_KEY, BLOB_KEY = "json", "blob"
BLOB_STYPE = "fedlora.update.v1"
LARGEST_COUNT = 2**53


class Task(Settings):
    """One message to one client: start from the state in the blob, evaluate it, train, answer."""

    run: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    """Identifier of the run, the same for all its rounds and resumes. Sites name files after it: no path fits."""

    round: int = Field(ge=1)
    rounds: int = Field(ge=1)
    """Largest number of trainings that this client can be charged for in the run, for which σ is calibrated."""

    seed: int
    strategy: str
    trains: tuple[Factor, ...]
    """Factors to train and send; everything else stays as received."""

    keeps: tuple[Factor, ...] = ()
    """Factors to train and keep at the site: what is received of them only starts a site that has none."""

    model: ModelSettings
    fingerprint: str
    """Hash of the coordinator's base model: a client with another base refuses."""

    fingerprints: Annotated[Mapping[LoadDtype, str], Since(2)] = Field(default_factory=dict)
    """Of the same base in the other forms in which a site may hold it (`model.also_held_as`)."""

    labels: tuple[str, ...]
    """Class names in the order of the head's outputs."""

    adapter: AdapterSettings
    ranks: Mapping[str, int] | None = None
    """This client's rank of each adapted matrix (0: not held), where devices are unequal; adapter.r when not given."""

    train: TrainSettings
    privacy: PrivacySettings
    noise_factor: float = Field(1.0, gt=0, le=100)
    """Under privacy.adapt: what the calibrated σ is multiplied by, within the run's ε and the site's bounds."""

    wire: WireSettings
    base_version: int = 0
    """Version of the base after the residual in the blob has been added."""

    changes: bool = False
    """Whether the blob holds what turns the state that the client holds into the new one, not the whole state."""

    residual_since: int = 0
    """Version from which that residual starts: what the coordinator believes that the client holds."""

    used_round: int = Field(0, ge=0)
    """Last round whose update of this client became part of the state; 0 if none. Later ones were lost, late or left
    out, and what the client had added to them of earlier rounds' residual is still to be sent."""

    coordinator: str = "local"
    """Name of the coordinator, for the site's policy."""

    weigh_by: Annotated[Literal["examples", "tokens"], Since(2)] = "examples"
    """What the site counts for the weight of its update."""

    @property
    def expected_fingerprint(self) -> str:
        """Of the base in the form that `model` says: a site's own, where the task is placed on it."""
        return self.fingerprints.get(self.model.load_dtype, self.fingerprint)

    @property
    def planned_rounds(self) -> int:
        """How many rounds the recipe has, by which learning rates change."""
        return max(1, self.rounds - self.privacy.spare_rounds)


MetricName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
MOST_METRICS = 16


class Evaluation(Settings):
    """Quality of an adapter on some examples: its loss, and its task's metrics by name.

    As JSON they stand side by side: {"loss": 0.41, "accuracy": 0.83, "examples": 200}.
    """

    loss: float = Field(ge=0)
    metrics: Mapping[MetricName, float] = Field(default_factory=dict, max_length=MOST_METRICS)
    """Means over the examples. What is called accuracy is a share; a margin may be below zero."""
    examples: int = Field(ge=0, le=LARGEST_COUNT)

    @classmethod
    def of(cls, means: Mapping[str, float], *, examples: int) -> Evaluation:
        """From `loss` and the metrics of one measurement."""
        rest = {name: value for name, value in means.items() if name != "loss"}
        return cls(loss=means["loss"], metrics=rest, examples=examples)

    @model_validator(mode="before")
    @classmethod
    def _side_by_side(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or "metrics" in given:
            return given
        rest = {name: value for name, value in given.items() if name not in ("loss", "examples")}
        return {name: value for name, value in given.items() if name not in rest} | {"metrics": rest}

    @field_validator("metrics")
    @classmethod
    def _shares(cls, metrics: Mapping[str, float]) -> Mapping[str, float]:
        if taken := sorted(metrics.keys() & {"loss", "examples"}):
            raise ValueError(f"{taken[0]} is not a metric of any task.")
        for name, value in metrics.items():
            if name.endswith("accuracy") and not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; it must be from 0 to 1.")
        return metrics

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        return {"loss": self.loss, **self.metrics, "examples": self.examples}

    def value(self, name: str) -> float:
        """The loss, or a metric; KeyError for one that was not measured."""
        return self.loss if name == "loss" else self.metrics[name]


class Report(Settings):
    """A client's answer besides the update itself. A refusal is an answer; an error leaves the site as a code only.

    What is not within these bounds is no report: it is shown to people, counted and stored at the coordinator.
    """

    client: str = Field(pattern=r"^\P{C}{1,200}$")  # no control, format or surrogate characters
    outcome: Literal["trained", "refused", "failed"]
    code: str | None = Field(None, pattern=r"^[a-z0-9-]{1,64}$")
    """Why it refused or failed: an identifier such as `budget-exhausted`, never free text from the site."""

    round: int
    examples: int = Field(0, ge=0, le=LARGEST_COUNT)
    """N_k, or its public bucket under privacy: the weight of this update."""

    tokens: Annotated[int | None, Since(2)] = Field(None, ge=0, le=LARGEST_COUNT)
    """Learnt tokens of those examples together, where the task weighs by them; never under privacy."""

    received: Evaluation | None = None
    """The received adapter on the client's own test examples (None under privacy, unless the recipe asks)."""

    train_loss: float | None = None
    """Mean loss over the local steps (None under privacy, unless the recipe asks)."""

    skipped_steps: Annotated[int, Since(2)] = Field(0, ge=0, le=LARGEST_COUNT)
    """Local steps whose loss or gradient was not finite, and which changed nothing. With privacy there are none: such
    an example counts as zero."""

    held_as: Annotated[LoadDtype | None, Since(2)] = None
    """The form in which the site holds the base, where it is another than the run's."""

    base_version: int = Field(0, ge=0, le=LARGEST_COUNT)
    """Version of the base that the client now holds."""

    seconds: float = Field(0.0, ge=0)
    """Time from the message's arrival to the answer."""

    resources: DeviceSettings | None = None
    """Resources that the site declares, in its first answer of a run; None if it declares nothing."""

    machine: Machine | None = None
    """Versions and device, in the first answer of a run; None where the site does not tell."""

    packing: Packing | None = None
    """How the update was packed, and what that lost."""

    receipt: str | None = None
    """Under privacy: what was charged for this task, signed by the site (`fedlora.privacy.receipt`)."""
