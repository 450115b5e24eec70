"""Code that a base model brings along (`trust_remote_code`): nobody's is run but what this process was opened to.

    plugins: {/srv/models/ours: 3f...}        policy.yaml or server.yaml: the folder as model.id names it, and its hash

The list is that of plug-ins (`fedlora.plugins.gate`), because such code can do what theirs can. `any` is of installed
packages alone: a folder is listed by its name, or not at all.

Guarantee: `trusted_code` is None, and transformers is told to run nothing, or every Python file of the folder is what
was listed. What those files import from elsewhere is no part of the hash.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlora.plugins.gate import opened_to
from fedlora.settings import SettingsError

OWN = re.compile(r"[A-Za-z_]\w*\.[A-Za-z_]\w*", re.ASCII)
"""A class in a file of the folder itself: no path, which transformers would follow out of it, and no other model."""

ELSEWHERE = "configuration_files"
"""By this in its config.json transformers reads another file in its place, with code of its own to name."""

REFUSED = "model.id={id!r} comes with code of its own, which would run beside a site's data"


def trusted_code(model_id: str, source: str) -> str | None:
    """The hash of the code that may run for this model; None where it brings none. SettingsError where it may not."""
    folder = Path(source)
    config = config_in(folder)
    named = code_named(config)
    if not named:
        return None
    refused = REFUSED.format(id=model_id)
    if elsewhere := [name for name in named if OWN.fullmatch(name) is None]:
        raise SettingsError(
            f"{refused}, and takes it from another model or folder ({elsewhere[0]!r} in its config.json); choose an "
            "architecture that transformers has."
        )
    if ELSEWHERE in config:
        raise SettingsError(
            f"{refused}, and its config.json leaves it to other files ({ELSEWHERE}) which code that is; put what they "
            f"say into config.json, without {ELSEWHERE}, or choose an architecture that transformers has."
        )
    found, listed = hash_of_code(folder), opened_to()
    line = f"plugins: {json.dumps({model_id: found})}"
    if listed == "any":
        raise SettingsError(
            f"{refused}: no recipe brings code. Choose an architecture that transformers has, or give the model as an "
            "object: fedlora.simulate(..., model=(model, tokenizer))."
        )
    if model_id not in listed:
        raise SettingsError(
            f"{refused}, and is not listed under `plugins` (a coordinator's list is in server.yaml, a site's in "
            f"policy.yaml); once you have read it, write {line} there. Or choose an architecture that transformers has."
        )
    if listed[model_id] != found:
        raise SettingsError(
            f"{refused}, and its files are not those that were listed (by their hash {listed[model_id]}); once you "
            f"have read what has changed, write {line}"
        )
    return found


def config_in(folder: Path) -> Mapping[str, Any]:
    """What its config.json holds; nothing of a hub's id."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}  # transformers says what is wrong with it, and runs nothing
    return config if isinstance(config, dict) else {}


def code_named(config: Mapping[str, Any]) -> list[str]:
    """The classes that it wants to be loaded from files of the model's own; of a tokenizer there may be two in one."""
    named = config.get("auto_map")
    values = named.values() if isinstance(named, dict) else ()
    return [str(name) for value in values for name in (value if isinstance(value, list) else [value]) if name]


def hash_of_code(folder: Path) -> str:
    """SHA-256 of the names and bytes of every Python file in it."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*.py") if path.is_file()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()
