"""A folder that was exported, on a hub: only on a person's word, and never what may not be passed on.

What is asked here, on this machine, comes first (`require_passable`); only then is anything said to the hub, and what
is sent is one commit: all files or none.

Guarantee: nothing is sent of an adapter that the gate has not looked at, or holds without a reason; of a base under
terms that nobody has stated; under a name that those terms forbid; into a repository that everybody can read, unless
that was asked for; or beside weights of another kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedlora.exports.source import Source
from fedlora.gate.verdict import gate_in
from fedlora.settings import RunError, SettingsError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth")
"""Of files that a loader may take for a model's."""


@dataclass(frozen=True)
class Published:
    """One commit on a hub."""

    url: str
    account: str


def require_passable(source: Source, repository: str) -> None:
    """SettingsError for what may not be published under this name, whatever a person says. What the gate holds has
    been refused before (`fedlora.exports.commands.through_gate`)."""
    owner, slash, name = repository.partition("/")
    if not (owner and slash and name) or "/" in name:
        raise SettingsError(
            f"REPO {repository!r}: write it as OWNER/NAME, your account or organisation on the hub first."
        )
    if gate_in(source.folder) is None:
        raise SettingsError(
            f"nobody has looked at {source.folder} yet: run `fedlora gate {source.folder}` first, which writes down "
            "what it finds."
        )
    terms = source.about.terms
    if terms is None:
        raise SettingsError(
            f"nobody has said under which licence {source.about.base.id} is, so nothing made of it is published: find "
            "out, and state it with --license."
        )
    prefix = (terms.prefix or "").replace(" ", "-")
    if not name.lower().startswith(prefix.lower()):
        raise SettingsError(
            f"REPO {repository!r}: by the terms of {source.about.base.id} ({terms.link}) the name of what is made of "
            f"it begins with `{prefix}`: {owner}/{prefix}-{name}"
        )


def files_of(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def publish(folder: Path, repository: str, *, public: bool) -> Published:
    """All files of the folder as one commit, into a repository that is made where there is none.

    SettingsError, before a file is sent, for a repository that everybody can read and was not meant to be one, or that
    holds other weights; RunError for what the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(library_name="fedlora")
    files = {file.relative_to(folder).as_posix(): file for file in files_of(folder)}
    with answered(repository):
        account = str(api.whoami()["name"])
        require_fitting(api, repository, files, public=public)
        api.create_repo(repository, private=not public, exist_ok=True)
        made = api.create_commit(
            repository,
            [CommitOperationAdd(name, str(file)) for name, file in files.items()],
            commit_message="An adapter by fedlora",
        )
        there = set(api.list_repo_files(repository, revision=made.oid))
    if missing := files.keys() - there:
        raise RunError(
            f"{repository}: the hub left out {', '.join(sorted(missing))}; a .gitignore there may say why. What it has "
            "is not whole: mend that, and push again."
        )
    return Published(made.commit_url, account)


def require_fitting(api: HfApi, repository: str, files: Iterable[str], *, public: bool) -> None:
    """SettingsError for a repository that is there already and is not one for these files."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        found = api.model_info(repository)
    except RepositoryNotFoundError:
        return
    if not found.private and not public:
        raise SettingsError(
            f"{repository} is there already, and everybody can read it: say --public if that is meant, or give another "
            "REPO."
        )
    weights = {one.rfilename for one in found.siblings or () if one.rfilename.endswith(WEIGHTS)}
    if others := sorted(weights - set(files)):
        raise SettingsError(
            f"{repository} holds {', '.join(others[:3])}{' and more' if len(others) > 3 else ''}, which a program may "
            "load together with, or instead of, what is sent: remove that there, or give another REPO."
        )


@contextmanager
def answered(repository: str) -> Iterator[None]:
    """What a hub says against it, as a sentence."""
    from huggingface_hub import errors

    try:
        yield
    except SettingsError:
        raise
    except errors.OfflineModeIsEnabled:
        raise SettingsError(
            "this machine is told to ask no hub (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set): nothing was sent. "
            "Unset it to publish."
        ) from None
    except errors.LocalTokenNotFoundError:
        raise SettingsError("nobody is logged in to the hub here: nothing was sent. Run `hf auth login`.") from None
    except errors.HfHubHTTPError as error:
        raise RunError(
            f"{repository}: the hub refused it ({error.response.status_code}): {error.server_message or error}. May "
            "the login's token write there?"
        ) from None
    except ValueError as error:  # its library's own, of a name or a card that the hub does not take
        raise RunError(f"{repository}: the hub does not take it: {error}") from None
    except unreachable() as error:
        said = f"{type(error).__name__}: {error}"
        raise RunError(f"{repository}: the hub cannot be reached ({said}); try again.") from None


def unreachable() -> type[Exception]:
    """What huggingface_hub raises of its connection: of httpx, or of httpx2, as it has come to use."""
    from huggingface_hub.errors import HfHubHTTPError

    return next(base for base in HfHubHTTPError.__bases__ if base.__name__ == "HTTPError")
