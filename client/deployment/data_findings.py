"""What `fedlora client doctor` says of a site's data: what was read and declared, and what the budget belongs to."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from client.deployment.declared import two_digits
from client.deployment.wanted import Wanted
from client.own_rows import OwnRows, require_usable, rows_in
from client.settings import ClientSettings
from fedlora.config import ModelSettings
from fedlora.data.classes import MOST_CLASSES, alike
from fedlora.data.lengths import learnt, percent, percentiles, whole_items
from fedlora.data.membership import KEY_BYTES
from fedlora.data.row import Row, labels_in
from fedlora.data.rows import MOST_SHOWN
from fedlora.deployment.findings import Finding, bad, doubtful, good
from fedlora.models.base import load_processor
from fedlora.privacy.calibration import public_size as ladder_size
from fedlora.privacy.calibration import size_bound
from fedlora.privacy.policy import Policy
from fedlora.privacy.refusal import Refusal
from fedlora.privacy.rows_key import stored_key
from fedlora.privacy.sketch import known_elsewhere
from fedlora.settings import SettingsError
from fedlora.tasks.registry import has_classes, task_named

MOST_LISTED = 12
SHOWN_CHARS = 60
"""Of a row that is shown to its own people."""


def rows_of(settings: ClientSettings) -> OwnRows:
    """The site's rows, without making the key that its first task makes: another one splits them otherwise."""
    key = stored_key(settings.state)
    return rows_in(settings.data, secrets.token_bytes(KEY_BYTES) if key is None else key)


def data(settings: ClientSettings) -> Finding:
    """The files are there and have their columns; how many rows can be used, and why others cannot."""
    rows = rows_of(settings)
    labels = labels_in((*rows.train, *rows.test))
    classes = f"classes {', '.join(labels)}; " if labels else ""
    said = f"{len(rows.train)} to train, {len(rows.test)} to test; {classes}{rows.counts}"
    if rows.also_tested:
        said += f"; {rows.also_tested} left out of training as they are in the test file"
    if rows.test_counts is not None:
        said += f"; test file: {rows.test_counts}"
    if rows.malformed:
        said = "\n".join([said, *rows.malformed[:MOST_SHOWN]])
    try:
        require_usable(settings, rows)
    except Refusal as refusal:
        return bad("data", said, f"Private tasks are refused: {refusal}")
    if rows.malformed:
        return doubtful("data", said, "Mend these rows: a task leaves them out and says nothing of it.")
    if len(rows.train) < 100:
        return doubtful("data", said, "Privacy needs more: with few examples the noise outweighs them.")
    if settings.data.labels is None and has_classes(settings.data.task):
        remedy = f"Declare the classes under data in client.yaml, if these are all: labels: [{', '.join(labels)}]"
        return doubtful("data", said, remedy)
    return good("data", said)


def classes(settings: ClientSettings) -> Finding:
    """The classes with their shares; names that differ only where nobody looks. Said here, and to nobody else."""
    rows = rows_of(settings)
    seen = Counter(name for row in (*rows.train, *rows.test) for name in row.classes)
    whole, most = sum(seen.values()), seen.most_common(MOST_LISTED)
    said = ", ".join(f"{label} {count} ({percent(count, whole)})" for label, count in most)
    said += f", and {len(seen) - len(most)} more" if len(seen) > len(most) else ""
    groups = alike(seen)
    if groups:
        same = "; ".join(" and ".join(map(repr, group)) for group in groups)
        return doubtful("classes", f"{said}; these differ only in case or spaces: {same}", "Write each in one way.")
    if len(seen) > MOST_CLASSES:
        remedy = "Is data.label in client.yaml the column of the classes?"
        return doubtful("classes", f"{len(seen)} different values: {said}", remedy)
    missing = sorted(set(settings.data.labels or ()) - seen.keys())
    if missing:
        return doubtful("classes", f"{said}; declared, and in no row: {', '.join(missing)}", "Mend data.labels.")
    if len(seen) < 2:
        return doubtful("classes", f"{said or 'none'}", "With one class a site teaches only its name.")
    return good("classes", said)


def texts(settings: ClientSettings, wanted: Wanted) -> Finding:
    """How long the texts are, and which of them the base model's own tokenizer makes nothing of, where it is here; of
    images, how large the files."""
    rows, task = rows_of(settings), settings.data.task
    found = (*rows.train, *rows.test)
    if found and found[0].form.images:
        return good("images", f"{len(found)}, of at most {max(sum(map(len, row.cells)) for row in found)} bytes")
    longest = max((len(row.text) for row in found), default=0)
    in_characters = f"the longest has {longest} characters"
    if wanted.model is None or not found:
        return good("texts", in_characters)
    try:
        tokenizer = load_processor(ModelSettings(id=wanted.model, task=task))
    except SettingsError:  # said of the base model already
        return doubtful("texts", in_characters, "Mend the base model to know it in tokens.")
    items = whole_items(found, tokenizer, task, ignore_unusable=True)
    lengths = [task_named(task).length(item) for item in items]
    said = f"the longest has {max(lengths)} tokens, {percentiles(lengths)}; {cutting(lengths, wanted.max_tokens)}"
    empty = [row for row, item in zip(found, items, strict=True) if not learnt(item)]
    if not empty:
        return good("texts", said)
    lines = [f"{said}; {len(empty)} of {len(found)} teach nothing", *reasons(empty[:MOST_SHOWN], tokenizer, task)]
    return doubtful("texts", "\n".join(lines), "Mend these rows: a private task ignores them, and any other one fails.")


def cutting(lengths: Sequence[int], limit: int | None) -> str:
    """How many a run cuts at `limit`."""
    if limit is None:
        return "a run cuts what is above its model.max_tokens (--max-tokens N says how many)"
    longer = sum(length > limit for length in lengths)
    return f"{longer} of {len(lengths)} ({percent(longer, len(lengths))}) are cut at model.max_tokens={limit}"


def reasons(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, task: str) -> Iterator[str]:
    """Each row as far as a line shows it, with what is wrong with it."""
    for row in rows:
        try:
            whole_items([row], tokenizer, task)
            why = "there is nothing to learn in it"
        except SettingsError as error:
            why = str(error).partition(": ")[2].rstrip(".")
        yield f"{' | '.join(map(str, row.cells))[:SHOWN_CHARS]!r}: {why}"


def public_size(settings: ClientSettings, policy: Policy) -> Finding:
    """A declared size does not follow the data, example by example."""
    here = len(rows_of(settings).train)
    named, size = settings.data.dataset, policy.dataset(settings.data.dataset).public_examples
    if size is None:
        return doubtful(
            "public size",
            "none is declared: the size is told to the next step of a coarse ladder, and follows the data",
            f"In policy.yaml: datasets: {{{named}: {{public_examples: {two_digits(max(1, here))}}}}}",
        )
    if size < ladder_size(max(1, here)) or size > size_bound(max(1, here)):
        why = (
            "delta is held against the smaller number"
            if size < here
            else "the noise is made for more than there are, and the update weighs more"
        )
        return doubtful(
            "public size",
            f"{size} training examples are declared, and there are {here}: {why}",
            f"Set public_examples of {named} in policy.yaml to {two_digits(max(1, here))}, before the next run.",
        )
    return good("public size", f"{size} training examples are declared; no task is told how many there are")


def own_name(settings: ClientSettings) -> Finding:
    """No other dataset of this site was charged for these rows."""
    key = stored_key(settings.state)
    if key is None:
        return good("dataset", f"{settings.data.dataset}: nothing was noted yet")
    said = known_elsewhere(settings.state, settings.data.dataset, rows_of(settings).hashes, key=key)
    if said is not None:
        return bad("dataset", said, "Use the name that they were charged under, or carry over what was spent.")
    return good("dataset", f"{settings.data.dataset}: these rows were charged under no other name here")
