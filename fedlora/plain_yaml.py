"""The one reader and writer of YAML in this project: the JSON-like part of YAML 1.2, within limits.

A recipe may come from a stranger's browser, and a policy decides about privacy: what two readers could understand
differently is refused with its line, and nothing written costs more to read than its own length.

    true, True, TRUE, false, ...   a truth value; yes, no, on, off are text (and a setting of two values takes them)
    null, ~, nothing               not given
    7, -3, 1e-3, .5, 0x1F, 0o17    a number; 010 is refused: eight to some readers, ten to others
    1:30, 2026-01-31, 1_000        text
    a key                          text, as it is written
    &a, *a, !tag, a second ---     refused, and so is a key that stands twice
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml

MOST_CHARS = 1_000_000
MOST_NODES = 50_000
MOST_DEPTH = 32
MOST_KEY_CHARS = 200
MOST_DIGITS = 100
SHOWN_CHARS = 80

Place = tuple[str | int, ...]
"""Keys and positions from the top."""
NULL = re.compile(r"~|null|Null|NULL|")
TRUTH = re.compile(r"(?P<yes>true|True|TRUE)|false|False|FALSE")
WHOLE = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
REAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
LEADING_ZERO = re.compile(r"[-+]?0[0-9]")
BASES = {"0o": 8, "0x": 16}


class YamlError(ValueError):
    """A problem in a text, with its line; limited in length, whatever the text."""


class Written(dict[str, Any]):
    """Settings as a text holds them; `lines` says where each is written: None, it was typed on the command line."""

    def __init__(self, values: dict[str, Any], lines: Mapping[Place, int | None]) -> None:
        super().__init__(values)
        self.lines = lines


def text_of(path: Path) -> str:
    """A file as UTF-8 text, a byte-order mark taken off; YamlError for another encoding or too long a file."""
    with path.open("rb") as file:
        content = file.read(4 * MOST_CHARS + 1)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(content) > 4 * MOST_CHARS:
            raise too_long() from None
        line = content.count(b"\n", 0, error.start) + 1
        raise YamlError(f"line {line}: this is not UTF-8 text; save the file as UTF-8.") from None


def read_yaml(text: str) -> Any:
    """The value that `text` holds: Written, list, text, number, truth value, or None; YamlError with the line."""
    if len(text) > MOST_CHARS:
        raise too_long()
    try:
        return _Reader(text).document()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlError(f"line {line}: a character that is not allowed in text; save the file as UTF-8.") from None
    except yaml.MarkedYAMLError as error:
        raise YamlError(_place(error) + shortened(error.problem or "cannot be read", SHOWN_CHARS) + ".") from None


def read_scalar(text: str) -> Any:
    """A value that somebody typed, whatever is in it: `#`, `:` and blanks are text; YAML begins with [, {, " or '.

    >>> read_scalar("runs #1.csv"), read_scalar("1e-3"), read_scalar("[a, 2]"), read_scalar("'7'"), read_scalar("")
    ('runs #1.csv', 0.001, ['a', 2], '7', None)
    """
    if text.lstrip().startswith(("[", "{", '"', "'")):
        return read_yaml(text)
    return plain(text.strip(), line=None)


def plain(text: str, *, line: int | None) -> Any:
    """The value of a scalar without quotes."""
    if NULL.fullmatch(text):
        return None
    if truth := TRUTH.fullmatch(text):
        return truth["yes"] is not None
    whole = WHOLE.fullmatch(text)
    if not whole and not REAL.fullmatch(text):
        return text
    if len(text) > MOST_DIGITS:
        refuse(line, f"a number of {len(text)} characters; the most is {MOST_DIGITS}.")
    if LEADING_ZERO.match(text):
        refuse(
            line,
            f"{text} begins with 0, which some programs read as an octal number; remove the 0, or write '{text}' for "
            "text.",
        )
    if whole:
        return int(text, BASES.get(text[:2], 10))
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def yaml_text(values: Any, *, flow: bool = False) -> str:
    """`values` as YAML that this reader, and any of YAML 1.1 or 1.2, reads back as they are; keys keep their order."""
    return yaml.dump(values, Dumper=_Writer, default_flow_style=flow, sort_keys=False, allow_unicode=True)


def shortened(text: str, most: int) -> str:
    """At most `most` characters of it, a cut marked.

    >>> shortened("abcdefgh", 5)
    'abcd…'
    """
    return text if len(text) <= most else f"{text[: most - 1]}…"


def too_long() -> YamlError:
    return YamlError(f"longer than {MOST_CHARS:,} characters; shorten it.")


def refuse(line: int | None, why: str) -> NoReturn:
    raise YamlError(why if line is None else f"line {line}: {why}")


def _place(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    return "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "


class _Reader:
    """Values from PyYAML's events; the composer and the constructors, where aliases and tags live, are not used."""

    def __init__(self, text: str) -> None:
        self._events: Iterator[Any] = iter(yaml.parse(text, Loader=yaml.SafeLoader))
        self._nodes = 0
        self._lines: dict[Place, int] = {}

    def document(self) -> Any:
        next(self._events)  # the stream's start
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            return None
        value = self._value(next(self._events), ())
        next(self._events)  # the document's end
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            refuse(_line(event), "a second YAML document starts here; keep one.")
        return Written(value, self._lines) if isinstance(value, dict) else value

    def _value(self, event: Any, path: Place) -> Any:
        self._require_plain(event, path)
        if isinstance(event, yaml.ScalarEvent):
            return plain(event.value, line=_line(event)) if event.style is None else event.value
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(path)
        return self._mapping(path)

    def _require_plain(self, event: Any, path: Place) -> None:
        self._nodes += 1
        if self._nodes > MOST_NODES:
            refuse(_line(event), f"more than {MOST_NODES:,} values; use fewer settings.")
        if len(path) > MOST_DEPTH:
            refuse(_line(event), f"more than {MOST_DEPTH} levels of nesting; use fewer.")
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            sign = "*" if isinstance(event, yaml.AliasEvent) else "&"
            name = shortened(str(event.anchor), SHOWN_CHARS)
            refuse(
                _line(event),
                f"anchors and aliases such as {sign}{name} are not supported; write the value out, or '{sign}{name}' "
                "for text.",
            )
        if event.tag is not None:
            tag = shortened(event.tag.replace("tag:yaml.org,2002:", "!!"), SHOWN_CHARS)
            refuse(_line(event), f"tags such as {tag} are not supported; remove it.")

    def _sequence(self, path: Place) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            here = (*path, len(values))
            self._lines[here] = _line(event)
            values.append(self._value(event, here))
        return values

    def _mapping(self, path: Place) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._key(event, path)
            here, line = (*path, key), _line(event)
            if key in values:
                shown = shortened(key, SHOWN_CHARS)
                refuse(None, f"line {self._lines[here]} and line {line} both set {shown}; keep one.")
            self._lines[here] = line
            values[key] = self._value(next(self._events), here)
        return values

    def _key(self, event: Any, path: Place) -> str:
        self._require_plain(event, path)
        if not isinstance(event, yaml.ScalarEvent):
            refuse(_line(event), "a key must be a name, not a list or a mapping.")
        if not event.value or len(event.value) > MOST_KEY_CHARS:
            refuse(_line(event), f"a key must have 1 to {MOST_KEY_CHARS} characters; this one has {len(event.value)}.")
        return str(event.value)


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


class _Writer(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or 1.2 would take for something else; writes repeated values out."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Writer.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(f"^(?:{WHOLE.pattern})$"), list("-+0123456789"))
_Writer.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^(?:{REAL.pattern})$"), list("-+.0123456789"))
