"""A base model as it is found on another machine: by hub id and revision, by package, or by name and fingerprint.

Guarantee: nothing in a `NamedBase` is a path of this machine, and only a hub's id can be taken for one: the `place` of
every other base begins with `./`, which transformers looks for on the reader's own disk and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from fedlora.config import ModelSettings
from fedlora.models.from_gguf import SUFFIX as GGUF_SUFFIX
from fedlora.models.location import gguf_in
from fedlora.models.packaged import PACKAGED
from fedlora.models.quantised.scheme import scheme_of


@dataclass(frozen=True)
class NamedBase:
    """The original base of an adapter."""

    id: str
    """What `model.id` takes where the base lies: a hub's id, a packaged name, `./` and the name of a folder or file."""
    fingerprint: str
    """`fedlora.models.fingerprint` of the base as it was held; empty where nobody has taken it."""
    load_dtype: str = "float32"
    """How it was held: part of its fingerprint."""
    revision: str | None = None
    """The hub's commit that was loaded; None for what comes from no hub."""

    @property
    def place(self) -> str:
        """PEFT's `base_model_name_or_path`."""
        return f"./{self.id}" if self.id in PACKAGED else self.id

    @property
    def at(self) -> str:
        """The argument of `from_pretrained` that picks the revision, behind others; empty without one."""
        return f', revision="{self.revision}"' if self.revision else ""

    @property
    def imports(self) -> tuple[str, ...]:
        """Python that `line` needs."""
        if self.is_converted:
            return ("from fedlora.models.location import locate",)
        return ("from importlib.util import find_spec",) if self.id in PACKAGED else ()

    @property
    def line(self) -> str:
        """Python that sets `base` to something that `from_pretrained` takes."""
        if self.is_converted:
            return f'base = locate("{self.id}")'
        if packaged := PACKAGED.get(self.id):
            return f'base = find_spec("{packaged.package}").submodule_search_locations[0] + "/{packaged.file}"'
        return f'base = "{self.id}"'

    @property
    def is_converted(self) -> bool:
        """Whether transformers loads it only once fedlora has converted it."""
        file = PACKAGED[self.id].file if self.id in PACKAGED else self.id
        return Path(file).suffix.lower() in (GGUF_SUFFIX, ".onnx")

    @property
    def advice(self) -> str:
        """For a person on whose machine it was not found."""
        return f"Give the base model's path with --base. {self.whereabouts}"

    @property
    def whereabouts(self) -> str:
        """For a reader on another machine."""
        if packaged := PACKAGED.get(self.id):
            found = f"It is the packaged model `{self.id}`: `{packaged.install}`."
        elif self.id.startswith("./"):
            kind = "file" if self.is_converted else "folder"
            found = (
                f"It is a local {kind}, `{Path(self.id).name}`, and not on a hub: get a copy from whoever trained this "
                f"adapter, and put its path in place of `{self.id}`."
            )
        else:
            found = f"It is `{self.id}` on the Hugging Face hub"
            found += f", revision `{self.revision}`." if self.revision else "."
        found += " fedlora converts it once into a folder that transformers loads." if self.is_converted else ""
        held = f" (loaded in {self.load_dtype})" if self.fingerprint else ""
        found += f" Its fingerprint{held} is `{self.fingerprint}`." if self.fingerprint else ""
        return found + self.quantisation

    @property
    def quantisation(self) -> str:
        """What the adapter was trained on, where that is not the model as it is published."""
        scheme = scheme_of(self.load_dtype)
        if scheme is None:
            return ""
        return (
            f" The adapter was trained on it as quantised to {scheme.bits} bits ({self.load_dtype}: {scheme.said}). "
            "Beside the base in other numbers it answers a little otherwise."
        )

    @property
    def arguments(self) -> str:
        """Those of `from_pretrained` that load the base as it was held."""
        scheme = scheme_of(self.load_dtype)
        if scheme is None:
            return f"dtype=torch.{self.load_dtype}{self.at}"
        return (
            f'dtype=torch.float32, device_map="cpu", quantization_config=BitsAndBytesConfig({scheme.written}){self.at}'
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """What `arguments` needs of transformers."""
        return ("BitsAndBytesConfig",) if scheme_of(self.load_dtype) else ()


def named_base(settings: ModelSettings, *, fingerprint: str, model: nn.Module | None = None) -> NamedBase:
    """The base that these settings name; `model`, as it was loaded, knows its revision."""
    revision = getattr(getattr(model, "config", None), "_commit_hash", None)
    return NamedBase(portable(settings.id), fingerprint, settings.load_dtype, revision)


def portable(model_id: str) -> str:
    """The id without the folders of this machine.

    >>> portable("demo"), portable("/home/me/models/tiny-bert/"), portable("org/not-here")
    ('demo', './tiny-bert', 'org/not-here')
    """
    if model_id in PACKAGED:
        return model_id
    path = Path(model_id).expanduser()
    if not path.exists() and not model_id.startswith((".", "/", "~")):
        return model_id
    return f"./{(gguf_in(path) or path.resolve()).name}"
