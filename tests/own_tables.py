"""Tables as people bring them, made up: twelve unbalanced classes of short texts, and two classes of long ones.

Both are written with columns of their own names and a `client`, so that three lines of a recipe are enough. No text
tells its class by one word alone: words of other classes are mixed in, and in long texts most sentences say nothing.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable
from pathlib import Path

CLIENTS = ("east", "north", "south", "west")
TOPICS = {
    "delivery": "parcel courier arrived late tracking doorstep shipment depot",
    "refund": "money back refund returned amount credited waiting reimbursement",
    "password": "password login reset locked account forgotten sign username",
    "billing": "invoice charged twice statement billing fee month overcharged",
    "broken": "cracked broken stopped working defective screen faulty dented",
    "cancel": "cancel subscription end contract terminate renewal stop membership",
    "address": "moved house new address change street postcode relocate update",
    "warranty": "warranty guarantee expired repair covered claim years extended",
    "discount": "voucher coupon code discount promotion percent cheaper offer",
    "privacy": "delete personal data consent marketing tracking emails privacy unsubscribe",
    "stock": "sold out available again restock size colour stock waiting",
    "praise": "wonderful friendly helpful thank you excellent great staff",
}
PLAIN = ("hello", "could", "you", "please", "tell", "me", "about", "my", "last", "order", "since", "monday", "it",
         "seems", "that", "we", "still", "need", "this", "today")  # fmt: skip
RISING = ("sales grew again", "the customers were pleased", "margins improved", "the new plant opened on time",
          "orders came in early", "staff stayed with us", "the debt was paid down")  # fmt: skip
FALLING = ("sales shrank again", "the customers complained", "margins fell", "the new plant was delayed",
           "orders were cancelled", "staff left us", "the debt was not paid")  # fmt: skip
QUIET = ("the board met in the usual place", "the report covers the second quarter", "figures are in thousands",
         "the office stayed where it was", "an audit is planned for spring", "the method is last year's")  # fmt: skip


def twelve_classes(path: Path, *, rows: int = 1200, seed: int = 0) -> Path:
    """Short tickets; the largest class has about 30 % of the rows, the smallest 1 %."""
    draw, names = random.Random(seed), list(TOPICS)
    found: dict[str, str] = {}
    while len(found) < rows:
        topic = draw.choices(names, weights=[0.75**place for place in range(len(names))])[0]
        own = [*draw.sample(TOPICS[topic].split(), 3), draw.choice(TOPICS[draw.choice(names)].split())]
        words = own + draw.sample(PLAIN, draw.randint(4, 9))
        draw.shuffle(words)
        found[" ".join(words)] = topic
    return _write(path, "ticket", "topic", found.items(), draw)


def long_texts(path: Path, *, rows: int = 600, seed: int = 0) -> Path:
    """Reports of some 150 words, whose outcome two of three telling sentences say."""
    draw = random.Random(seed)
    found: dict[str, str] = {}
    while len(found) < rows:
        outcome = draw.choice(("falling", "rising"))
        mine, other = (RISING, FALLING) if outcome == "rising" else (FALLING, RISING)
        said = [draw.choice(mine) for _ in range(8)] + [draw.choice(other) for _ in range(4)]
        said += [draw.choice(QUIET) for _ in range(14)]
        draw.shuffle(said)
        found[". ".join(said) + "."] = outcome
    return _write(path, "report", "outcome", found.items(), draw)


def _write(path: Path, text: str, label: str, rows: Iterable[tuple[str, str]], draw: random.Random) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([text, label, "client"])
        writer.writerows((words, name, draw.choice(CLIENTS)) for words, name in rows)
    return path
