"""A recipe: one YAML file that describes a run. Parsed once, at the door, into frozen models.

A default lives in exactly one place, the field; the text under a field is its manual (`fedlora config show`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, Field, model_validator

from fedlora.attack import AttackSettings
from fedlora.privacy.settings import PrivacySettings
from fedlora.quotas import QuotaSettings
from fedlora.robust import RobustSettings
from fedlora.settings import Settings, SettingsError, parse
from fedlora.wire.settings import WireSettings


class ModelSettings(Settings):
    """The frozen base model."""

    id: str = "demo"
    """A Hugging Face hub id, a local folder, or `demo`: the MiniLM encoder of the demo packages."""

    task: Literal["sequence-classification"] = "sequence-classification"
    """What the model is fine-tuned for."""

    device: str = "cpu"
    """Where it runs: cpu, cuda, cuda:1, ..."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16` runs the forward and backward pass under autocast; adapters stay float32."""

    max_tokens: int = Field(64, ge=2)
    """Longer texts are cut; batches are padded to their own longest text."""

    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""


class PublicDataSettings(Settings):
    """Labelled examples that the coordinator holds and may show to everybody: nothing protects them."""

    source: str
    """`airlines` or `organisations` (the packaged corpus), a local CSV, JSONL or Parquet file, or a folder of them."""

    text: str = "text"
    """Column with the text."""

    label: str = "label"
    """Column with the class; rows of a class that the run does not know are left out."""

    client: str | None = None
    """Only the rows of this organisation of the packaged corpus."""

    examples: int = Field(256, ge=1)
    """How many are used."""


class FirstStepSettings(Settings):
    """How clients' own gradients are summed for `init: client-gradients`: one round of its own, before round 1."""

    epsilon: float | None = Field(None, gt=0)
    """ε of that round at privacy.delta: a budget of its own, composed with the run's in every site's ledger."""

    clip: float = Field(1.0, gt=0)
    """Largest L2 norm of one example's gradient over all adapted matrices."""

    batch_size: int = Field(256, ge=1)
    """Examples of a client that the gradient is taken on; under privacy the expected size of a Poisson sample."""


class AdapterSettings(Settings):
    """The low-rank adapter: ΔW = s · B A, with s = alpha / r."""

    kind: Literal["lora", "lora_xs"] = "lora"
    """`lora` trains A and B (or one of them, as the strategy says); `lora_xs` trains a core R between fixed B and A."""

    r: int = Field(8, ge=1)
    """Inner width: bytes on the wire grow linearly in it."""

    alpha: float = Field(8.0, gt=0)
    """Scale numerator: s = alpha / r."""

    rslora: bool = False
    """s = alpha / sqrt(r) instead."""

    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout in front of A."""

    targets: tuple[str, ...] | Literal["attention", "all-linear"] = "attention"
    """Module names that are adapted; `attention` finds query and value projections, whatever the model calls them."""

    layers: tuple[int, ...] | None = None
    """Indices of the transformer layers that are adapted; all of them when not given."""

    init: Literal["kaiming", "orthonormal", "gradient", "client-gradients"] = "kaiming"
    """A's initial distribution (B starts at zero): PEFT's default, or orthonormal rows. A LoRA-XS core starts at zero
    between random orthonormal B and A; `gradient` takes all three from the first step on `public` data (LoRA-SB),
    `client-gradients` from the sum of the clients' gradients (`first_step`)."""

    public: PublicDataSettings | None = None
    """Where `init: gradient` takes its gradient from: the coordinator's own examples, never a site's."""

    first_step: FirstStepSettings | None = None
    """The round that `init: client-gradients` asks of the clients; it sends as many numbers as the matrices have."""

    @model_validator(mode="after")
    def _pieces_fit(self) -> AdapterSettings:
        if self.init == "gradient" and (self.kind != "lora_xs" or self.public is None):
            raise ValueError(
                "init: gradient is LoRA-SB's start of a LoRA-XS core from public examples; set kind: lora_xs and "
                "public: {source: ...}, or choose another init."
            )
        if self.init == "client-gradients" and (self.kind != "lora_xs" or self.first_step is None):
            raise ValueError(
                "init: client-gradients is LoRA-SB's start of a LoRA-XS core from one round of the clients' own "
                "gradients; set kind: lora_xs and first_step: {epsilon: ..., batch_size: ...}, or choose another init."
            )
        return self

    @property
    def start(self) -> str:
        """What the first round starts from, in words."""
        if self.kind == "lora":
            return f"{self.init} A, B = 0"
        if self.init == "gradient" and self.public is not None:
            return f"LoRA-SB from the gradient on public data ({self.public.source})"
        if self.init == "client-gradients" and self.first_step is not None:
            spent = f"epsilon {self.first_step.epsilon:g} a client" if self.first_step.epsilon else "without privacy"
            return f"LoRA-SB from the clients' gradients, {spent}"
        return "random orthonormal B and A, R = 0"


class DataSettings(Settings):
    """Where examples come from and how they are spread over clients."""

    source: str = "airlines"
    """`airlines` or `organisations` (the packaged corpus), a local CSV, JSONL or Parquet file, or a folder of them."""

    text: str = "text"
    """Column with the text."""

    label: str = "label"
    """Column with the class."""

    labels: tuple[str, ...] | None = Field(None, min_length=2)
    """Class names in the order of the head's outputs; those that the source holds, sorted, when not given."""

    partition: Literal["natural", "iid", "dirichlet", "label"] = "natural"
    """`natural` groups by `client_column`; the others ignore it and make `clients` parts."""

    client_column: str = "client"
    """Column that names the organisation a row belongs to."""

    clients: int | None = Field(None, ge=1)
    """Number of parts for the partitions that are not natural."""

    alpha: float = Field(0.5, gt=0)
    """Concentration of the Dirichlet partition: smaller is more unequal."""

    test_fraction: float = Field(0.1, gt=0, lt=1)
    """Share of every client's examples that it keeps apart to evaluate what it receives."""

    held_out: int = Field(1500, ge=1)
    """Size of the one shared test set, taken out before clients are formed."""

    max_examples: int | None = Field(None, ge=1)
    """Use at most this many training examples per client."""


class StrategySettings(Settings):
    """Which aggregation, and its own settings (`fedlora strategies` lists both)."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    name: str = "fedsvd"
    """fedit, ffa, fedsvd, fedex, fair, fedsb, ..."""

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class TrainSettings(Settings):
    """What a client does in one round."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Local optimiser; its state starts afresh every round."""

    lr: float = Field(0.1, gt=0)
    """Learning rate of the adapter."""

    head_lr: float | None = Field(None, gt=0)
    """Learning rate of the task head; `lr` when not given."""

    head: Literal["train", "frozen"] = "train"
    """Whether the task head is trained and averaged with the adapter."""

    batch_size: int = Field(32, ge=1)
    """Examples per step; under privacy the expected size of a Poisson sample."""

    microbatch_size: int | None = Field(None, ge=1)
    """Process a batch in pieces of this size to save memory; exact."""

    steps: int = Field(10, ge=1)
    """Local optimiser steps per round."""

    momentum: float = Field(0.0, ge=0, lt=1)
    """Momentum of SGD."""

    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay of AdamW."""

    max_grad_norm: float | None = Field(None, gt=0)
    """Clip the batch gradient (without privacy; with it, every example's gradient is clipped to privacy.clip)."""


class RoundSettings(Settings):
    """How many rounds, who takes part, and how long a round waits."""

    count: int = Field(10, ge=1)
    """Number of rounds."""

    fraction: float = Field(1.0, gt=0, le=1)
    """Share of the known clients asked in each round."""

    quorum: float = Field(0.5, gt=0, le=1)
    """Share of the asked clients whose valid updates a round needs; fewer is an error, and nothing is changed."""

    min_clients: int = Field(1, ge=1)
    """Wait for this many connected clients before a round starts."""

    wait_s: float = Field(600.0, gt=0)
    """Longest wait for `min_clients`, in seconds."""

    deadline_s: float = Field(3600.0, gt=0)
    """Longest wait for answers in one round, in seconds."""

    grace_s: float = Field(60.0, ge=0)
    """Once the quorum has answered, wait this much longer for the others, in seconds."""

    max_examples: int = Field(10_000_000, ge=1)
    """Largest number of examples that a client may claim; more is rejected, because it would own the average."""

    max_update_norm: float = Field(1e4, gt=0)
    """Largest L2 norm of a decoded update; more is rejected."""

    evaluate_every: int = Field(1, ge=1)
    """Evaluate the global adapter on the shared test set every so many rounds (and after the last)."""

    def asked(self, connected: int) -> int:
        """How many of the connected clients a round asks."""
        return max(self.min_clients, math.ceil(self.fraction * connected))


class DeviceSettings(Settings):
    """What one client can carry: its rank and depth, or a budget from which both follow (`server/planner.py`)."""

    r: int | None = Field(None, ge=1)
    """Largest rank of a matrix; adapter.r when not given, and never more."""

    depth: int | None = Field(None, ge=1)
    """Adapt only so many transformer layers, those nearest the output; all when not given."""

    distribution: Literal["uniform", "rising"] = "uniform"
    """`uniform`: the same rank in every adapted layer; `rising`: ranks grow towards the output (LEGEND)."""

    memory_mb: float | None = Field(None, gt=0)
    """Memory for training besides the frozen base, in MB: activations of the adapted layers, gradients, optimiser."""

    megabits_s: float | None = Field(None, gt=0)
    """Bandwidth of the site's link, in Mbit/s, together with `transfer_s`."""

    transfer_s: float = Field(60.0, gt=0)
    """Longest time for one round's download and upload, in seconds."""

    step_s: float | None = Field(None, gt=0)
    """Measured seconds per training step when every layer is adapted, together with `target_step_s`."""

    target_step_s: float | None = Field(None, gt=0)
    """Longest time that a step may take on this device, in seconds."""

    @model_validator(mode="after")
    def _pieces_fit(self) -> DeviceSettings:
        if (self.step_s is None) != (self.target_step_s is None):
            raise ValueError("step_s and target_step_s belong together; give both or neither.")
        return self


class Recipe(Settings):
    """One run."""

    name: str = "run"
    """A name for tables and pictures."""

    mode: Literal["federated", "alone", "pooled"] = "federated"
    """`alone`: every client by itself; `pooled`: one client that holds everyone's data; both are references."""

    seed: int = 0
    """Seed of everything but privacy noise: same seed and machine, same result."""

    model: ModelSettings = ModelSettings()
    adapter: AdapterSettings = AdapterSettings()
    data: DataSettings = DataSettings()
    strategy: StrategySettings = StrategySettings()
    train: TrainSettings = TrainSettings()
    rounds: RoundSettings = RoundSettings()
    privacy: PrivacySettings = PrivacySettings()
    wire: WireSettings = WireSettings()
    robust: RobustSettings = RobustSettings()
    quotas: QuotaSettings = QuotaSettings()
    attack: AttackSettings | None = None
    """Simulations only: clients that lie, to see what `robust` does about it. A deployment refuses it."""

    devices: Mapping[str, DeviceSettings] = {}
    """Clients that carry less than the whole adapter, by name; `others` stands for every client that is not named."""

    @property
    def most_charges(self) -> int:
        """How often a site can be charged in the run: what σ is calibrated for."""
        return self.rounds.count + self.privacy.spare_rounds

    @model_validator(mode="after")
    def _pieces_fit(self) -> Recipe:
        if self.data.partition != "natural" and self.data.clients is None:
            raise ValueError(
                f"data.clients is missing; the {self.data.partition} partition needs the number of clients."
            )
        first = self.adapter.first_step
        if self.adapter.init == "client-gradients" and first is not None:
            if self.privacy.enabled != (first.epsilon is not None):
                raise ValueError(
                    "adapter.first_step.epsilon and privacy go together: a first step in clear would give away what "
                    "the rounds after it hide, and the reverse; give both a budget, or neither."
                )
            if self.privacy.client_level is not None:
                raise ValueError(
                    "init: client-gradients sends whole gradients, which privacy.client_level does not clip; take "
                    "init: gradient with public data, or another init."
                )
        return self

    @model_validator(mode="after")
    def _robust_fits(self) -> Recipe:
        """What a robust round cannot be together with; what depends on the strategy is `strategies/fit.py`'s."""
        if not self.robust.enabled:
            return self
        if self.privacy.client_level is not None:
            raise ValueError(
                "robust and privacy.client_level exclude each other: the noise covers what one clipped update can move "
                "a sum by, and a rule that looks at all updates has no such bound. Remove one of them."
            )
        if self.devices:
            raise ValueError(
                "robust compares whole updates, and clients of unequal rank or depth send unequal ones: every small "
                "device would look like an outlier. Remove `devices`, or robust.norm_bound and robust.rule."
            )
        if self.mode != "federated" and self.robust.rule != "mean":
            raise ValueError(f"robust.rule={self.robust.rule} compares clients, mode={self.mode} has one; remove it.")
        clients = None if self.data.partition == "natural" else self.data.clients
        if clients is not None and self.rounds.asked(clients) < self.robust.least_updates:
            raise ValueError(f"{self.robust.precondition}, a round asks {self.rounds.asked(clients)} clients.")
        return self


def load(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe file and apply `key.path=value` overrides (values are YAML). SettingsError on any problem."""
    file = Path(path)
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read the recipe {file}: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{file} is not valid YAML: {error}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise SettingsError(f"{file} must hold `key: value` settings, not a {type(values).__name__}.")
    return parse(Recipe, override(values, overrides))


def override(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """`values` with every `a.b=value` set.

    >>> override({"train": {"lr": 1.0}}, ["train.lr=2e-3", "strategy.name=ffa"])
    {'train': {'lr': 0.002}, 'strategy': {'name': 'ffa'}}
    """
    result = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise SettingsError(f"--set {item!r}: write it as key=value, for example --set train.lr=0.01.")
        *path, last = key.strip().split(".")
        here = result
        for part in path:
            inner = here.get(part)
            here[part] = dict(inner) if isinstance(inner, Mapping) else {}
            here = here[part]
        here[last] = _scalar(text)
    return result


def _scalar(text: str) -> Any:
    """YAML, but 1e-3 is a number (YAML 1.1 wants 1.0e-3)."""
    value = yaml.safe_load(text)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
