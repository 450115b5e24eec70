"""In which form a site holds the base: as the run says, or as its own client.yaml does where the run lets it."""

from __future__ import annotations

from client.site import Site
from fedlora.config.model import LoadDtype
from fedlora.privacy.refusal import Code, Refusal
from fedlora.protocol.task import Task


def require_form(task: Task, site: Site) -> None:
    """Refuse a task whose run does not know the form in which this site holds its base. Loads nothing."""
    own, model = site.compute.load_dtype, task.model
    known = (model.load_dtype, *task.fingerprints)
    if own is not None and own not in known:
        raise Refusal(
            Code.BASE_HELD_OTHERWISE,
            f"client.yaml holds bases in {own} (load_dtype), and the run's sites hold theirs in {' or '.join(known)}: "
            "one run mixes forms only where its recipe says so (model.also_held_as). Remove load_dtype from "
            "client.yaml, or ask for a run that allows it.",
        )


def other_form(task: Task, site: Site) -> LoadDtype | None:
    """What an answer says of the form; None where it is the run's own."""
    own = site.compute.load_dtype
    return None if own == task.model.load_dtype else own
