"""`model:` the frozen base."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from fedlora.config.preference import PreferenceSettings
from fedlora.protocol.versions import Since
from fedlora.settings import Settings
from fedlora.tasks.registry import known_task

LoadDtype = Literal["float32", "bfloat16", "nf4", "int8"]
QUANTISED = ("nf4", "int8")
"""Those of few bits (`fedlora.models.quantised`)."""


class ModelSettings(Settings):
    """The frozen base model."""

    id: str = "demo"
    """A Hugging Face hub id, a local folder, a GGUF file, or a packaged model: `demo` (MiniLM), `smollm2` or `vits14`
    (a vision transformer)."""

    task: Annotated[str, AfterValidator(known_task)] = "sequence-classification"
    """What the model is fine-tuned for: a name in `fedlora.tasks.registry`, or a plug-in's."""

    preference: Annotated[PreferenceSettings, Since(2)] = PreferenceSettings()
    """What the task `preference` minimises."""

    device: str = "cpu"
    """Former (`fedlora.config.former`): where it runs is the machine's."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16` runs the forward and backward pass under autocast; adapters stay float32. A wish, because figures
    depend on it: a machine that is better at the other says so (`dtype` in client.yaml and server.yaml, `--dtype`)."""

    load_dtype: Annotated[LoadDtype, Since(2)] = "float32"
    """How the frozen weights are held; each is another base (another fingerprint). `bfloat16` halves their memory and
    runs under autocast whatever `dtype` says. `nf4` and `int8` hold the matrices of linear layers in 4 and 8 bits
    (QLoRA; needs the extra `quantised`). Adapters, heads, gradients and clipping stay float32 with all of them."""

    also_held_as: Annotated[tuple[LoadDtype, ...], Since(2)] = ()
    """Deployments: other forms in which a site may hold the base, if its client.yaml says so (`load_dtype`); each has a
    fingerprint of its own, which is checked. None: all sites hold one base. Adapters that were trained on unlike bases
    are averaged then, so state it in what you report."""

    max_tokens: int = Field(64, ge=2)
    """Longer texts are cut; batches are padded to their own longest text, under privacy to a length of a fixed list. Of
    no effect on images."""

    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    @model_validator(mode="after")
    def _other_forms(self) -> ModelSettings:
        if self.load_dtype in self.also_held_as or len(set(self.also_held_as)) < len(self.also_held_as):
            raise ValueError(
                f"model.also_held_as lists other forms than model.load_dtype={self.load_dtype}, each once; got "
                f"{', '.join(self.also_held_as)}."
            )
        return self

    @property
    def forms(self) -> tuple[LoadDtype, ...]:
        """All in which the base may be held, the run's own first."""
        return (self.load_dtype, *self.also_held_as)
