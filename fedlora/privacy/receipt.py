"""Receipts: what a site charged for one task, signed with its key. They travel with the update.

The coordinator stores them and plans with them; it cannot raise a budget with them. They let it see that a ledger was
put back to an older state, which the site's own disk cannot show: the sequence number must rise and a digest stay.
"""

from __future__ import annotations

import json
from typing import Annotated

from fedlora.privacy.accounting import ADJACENCY
from fedlora.privacy.chain import canonical
from fedlora.privacy.signing import PrivateKey, public_text, require_signed, sign
from fedlora.protocol.versions import Since, recorded
from fedlora.settings import Settings, parse


class Receipt(Settings):
    """All public: nothing in it depends on the examples, beyond the public size in `rate`."""

    client: str
    dataset: str
    run: str
    round: int
    task: str
    """Digest of the task and of the state that came with it."""

    rate: float
    noise_multiplier: float
    clip: float
    steps: int
    delta: float
    epsilon_run: float
    """ε of this run so far, this task included, at `delta`."""

    epsilon_lifetime: float
    """ε of everything ever charged to the dataset, this task included, at `delta_lifetime`."""

    delta_lifetime: float
    epsilon_stated: Annotated[float, Since(2)] = 0.0
    """Of `epsilon_lifetime`, what the ledger counts because somebody stated it (`fedlora ledger carry`) ..."""

    delta_stated: Annotated[float, Since(2)] = 0.0
    """... at this δ, which is part of `delta_lifetime`."""

    epsilon_allowed: float
    """The site's lifetime budget for the dataset."""

    adjacency: str = ADJACENCY
    unit: str = "example"
    secure: bool
    """False: some noise of this run came from a seed, and every ε in here is a figure of a test."""

    sequence: int
    digest: str
    """The ledger's last entry."""


class Signature(Settings):
    """Who signed a receipt, and how: kept beside it, so that whoever stores receipts can be checked too."""

    public_key: str
    """PEM."""

    signature: str


def signature_in(text: str | None) -> Signature | None:
    """The signature of a signed text that was verified before; None where there is no text."""
    if text is None:
        return None
    values = json.loads(text)
    return Signature(public_key=values["public_key"], signature=values["signature"])


def signed_text(receipt: Receipt, key: PrivateKey) -> str:
    """JSON with the receipt, the public key and the signature."""
    values = recorded(receipt)
    return json.dumps(
        {"receipt": values, "public_key": public_text(key), "signature": sign(key, canonical(values))},
        sort_keys=True,
    )


class ReceiptError(ValueError):
    """An update that should have a receipt has none that fits."""


def require_receipt(text: str | None, *, client: str, run: str, round_number: int, task: str) -> Receipt:
    """The receipt of this client's task in this round, signed; ReceiptError otherwise. `task`: digest of what was sent
    to the client: a charge for fewer steps, or less noise, is none for this task."""
    if text is None:
        raise ReceiptError(f"{client} sent no receipt in a private run.")
    try:
        receipt = verified(text)
    except (ValueError, KeyError, TypeError) as error:
        raise ReceiptError(f"the receipt of {client} cannot be verified: {error}") from None
    if (receipt.client, receipt.run, receipt.round) != (client, run, round_number):
        raise ReceiptError(f"{client} sent the receipt of {receipt.client}, run {receipt.run}, round {receipt.round}.")
    if receipt.task != task:
        raise ReceiptError(
            f"{client} sent a receipt of round {round_number} for a different task than the one it was sent "
            f"({receipt.task[:16]}instead of {task[:16]})."
        )
    return receipt


def require_later(now: Receipt, before: Receipt | None) -> None:
    """ReceiptError where a site's ledger has gone back since its receipt `before`: old copies of it were put back.

    The same receipt again is a retried task.
    """
    if before is None or now.dataset != before.dataset or now.digest == before.digest:
        return
    if now.sequence <= before.sequence:
        raise ReceiptError(
            f"the ledger of {now.client} went back from entry {before.sequence} to {now.sequence}: it was replaced by "
            "an older copy; have the site restore the newest one."
        )


def verified(text: str, *, public_key: str | None = None) -> Receipt:
    """The receipt in `text`; SignatureError or SettingsError if it is not one.

    With `public_key` it must be that key's: the coordinator keeps the key of a site's first receipt, or of enrolment.
    """
    values = json.loads(text)
    receipt = parse(Receipt, values["receipt"])
    require_signed(public_key or values["public_key"], canonical(recorded(receipt)), values["signature"])
    return receipt
