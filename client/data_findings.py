"""What `fedlora client doctor` says of a site's data: what was read and declared, and what the budget belongs to."""

from __future__ import annotations

import secrets

from client.declared import two_digits
from client.own_rows import OwnRows, require_usable, rows_in
from client.settings import ClientSettings
from fedlora.findings import Finding, bad, doubtful, good
from fedlora.membership import KEY_BYTES
from fedlora.privacy.calibration import public_size as ladder_size
from fedlora.privacy.calibration import size_bound
from fedlora.privacy.policy import Policy
from fedlora.privacy.refusal import Refusal
from fedlora.privacy.rows_key import stored_key
from fedlora.privacy.sketch import known_elsewhere
from fedlora.rows import MOST_SHOWN


def rows_of(settings: ClientSettings) -> OwnRows:
    """The site's rows, without making the key that its first task makes: another one splits them otherwise."""
    key = stored_key(settings.state)
    return rows_in(settings.data, secrets.token_bytes(KEY_BYTES) if key is None else key)


def data(settings: ClientSettings) -> Finding:
    """The files are there and have their columns; how many rows can be used, and why others cannot."""
    rows = rows_of(settings)
    labels = sorted({row.label for row in (*rows.train, *rows.test)})
    said = f"{len(rows.train)} to train, {len(rows.test)} to test; classes {', '.join(labels)}; {rows.counts}"
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
    if settings.data.labels is None:
        remedy = f"Declare the classes under data in client.yaml, if these are all: labels: [{', '.join(labels)}]"
        return doubtful("data", said, remedy)
    return good("data", said)


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
