"""Entities by a rule of ours, and the words without what the rule goes by. A test, and nobody's judgement.

    ACCOUNT     @name, but for the airlines that are written to
    MONEY       $ and a number                              TIME      7 pm, 11:30
    DURATION    a number with hours, minutes, days, weeks   FLIGHT    a number behind `flight`, `#` or a carrier's code
    PLACE       words with a capital behind from, to, in, at, via; two codes of airports with a hyphen, /, `to` or 2

The rule reads a message as it was written. A model is given its words in small letters, without `@`, `#`, `$`, colons,
am, pm and carriers' codes: what is then a price, a time or a flight, what a town and what a friend, only other words
tell. Where somebody wrote no capital, or a `#` that means something else, the rule is wrong, and so is its tag.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

Stretch = tuple[int, int]
"""Of a text: first character, and the one behind the last."""

AIRLINES = r"united|usairways|americanair|southwestair|jetblue|virginamerica"
CODE = r"[A-Z]{3}"
NO_PLACE = (
    r"(?:Cancelled|Late|Flight|Flighted|Mon|Tue|Wed|Thu|Fri|Sat|Sun|January|February|Feb|March|April|May|June|July|"
    r"August|Sept|October|November|December|Twitter|Facebook|Customer|The|This|That|You|Your|They|TSA|CEO|ALL|THE|YOU|"
    r"GET|AND|NOT|OUR|SEE|HIS|HER|ANY|PAY|USE|ASK|FLY|SIT|ADD|BUY|NOW|ONE|TWO|DAY|HAS|HAD|WAS|ARE|FOR|BUT)"
)
CAPITAL = rf"(?!{NO_PLACE})[A-Z][a-z]{{2,}}"
RULES = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("ACCOUNT", rf"@(?!(?i:{AIRLINES})\b)(?P<entity>\w+)"),
        ("MONEY", r"\$\s?(?P<entity>\d[\d,]*(?:\.\d+)?)"),
        ("TIME", r"\b(?P<entity>\d{1,2}(?::\d\d)?)(?P<gone>\s?(?:am|pm|AM|PM))\b"),
        ("TIME", r"\b(?P<entity>\d{1,2}:\d\d)\b"),
        ("DURATION", r"\b(?P<entity>\d+(?:\.\d+)?\+?\s?(?i:hours?|hrs?|minutes?|mins?|days?|weeks?))\b"),
        ("FLIGHT", r"\b(?i:flights?|flt|fl)\s?#?\s?(?P<gone>(?:[A-Z]{2})?)(?P<entity>\d{2,4})\b"),
        ("FLIGHT", r"(?:#|\b(?P<gone>UA|AA|US|DL|WN|VX)\s?)(?P<entity>\d{2,4})\b"),
        ("PLACE", rf"\b(?P<entity>{CODE})\s?(?:-|/|to|2|>|->)\s?(?P<second>{CODE})\b"),
        ("PLACE", rf"\b(?i:from|to|in|at|via)\s+#?(?P<entity>(?:{CAPITAL}(?:\s{CAPITAL})?|(?!{NO_PLACE}){CODE}))\b"),
    )
)
ADDRESS = re.compile(r"https?://\S+")
WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)?|\d+")


def words_and_tags(message: str) -> tuple[list[str], list[str]]:
    """The message's words, and the tag of each.

    >>> words, tags = words_and_tags("@united UA 1532 to San Diego left at 7pm, @amy paid $200!")
    >>> " ".join(words)
    'united 1532 to san diego left at 7 amy paid 200'
    >>> " ".join(tags)
    'O B-FLIGHT O B-PLACE I-PLACE O O B-TIME B-ACCOUNT O B-MONEY'
    """
    text = ADDRESS.sub(" ", html.unescape(message))
    found = dict(entities(text))
    kept = blanked(text)
    words, tags, last = [], [], None
    for match in WORD.finditer(kept):
        own = next((stretch for stretch in found if stretch[0] <= match.start() < stretch[1]), None)
        words.append(match[0].lower())
        tags.append("O" if own is None else f"{'I' if own == last else 'B'}-{found[own]}")
        last = own
    return words, tags


def entities(text: str) -> Iterator[tuple[Stretch, str]]:
    """Where they stand, and their types; none over another, the earlier rule's first."""
    taken: list[Stretch] = []
    for kind, pattern in RULES:
        for match in pattern.finditer(text):
            for name in ("entity", *(name for name in ("second",) if name in match.groupdict())):
                start, end = match.span(name)
                if not any(start < last and first < end for first, last in taken):
                    taken.append((start, end))
                    yield (start, end), kind


def blanked(text: str) -> str:
    """With blanks for what would tell by itself: am and pm, carriers' codes."""
    for _, pattern in RULES:
        for match in pattern.finditer(text):
            start, end = match.span("gone") if "gone" in match.groupdict() else (0, 0)
            text = text[: max(0, start)] + " " * (end - start) + text[max(0, end) :]
    return text
