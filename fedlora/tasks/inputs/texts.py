"""Texts to token ids: all at once where that works, and otherwise so that no text makes the others fail."""

from __future__ import annotations

import logging
from collections.abc import Callable

from transformers import PreTrainedTokenizerBase

from fedlora.settings import SettingsError

log = logging.getLogger(__name__)

LARGEST_ID = 2**31


def ids_of_texts(texts: list[str], tokenizer: PreTrainedTokenizerBase, *, longest: int, each: bool) -> list[list[int]]:
    """Token ids of every text, at most `longest`. SettingsError where the tokenizer makes nothing of any.

    With `each`, a text of which it makes no ids, or too many, has none, and nothing is raised.
    """

    def ids_of(texts: list[str]) -> list[list[int]]:
        found: list[list[int]] = tokenizer(texts, truncation=True, max_length=longest)["input_ids"]
        return found

    if each:
        return _each_by_itself(ids_of, texts, max_tokens=longest)
    encoded = ids_of(texts)
    _require_tokens(texts, encoded, nothing=ids_of([""])[0], tokenizer=tokenizer)
    return encoded


def _require_tokens(
    texts: list[str], encoded: list[list[int]], *, nothing: list[int], tokenizer: PreTrainedTokenizerBase
) -> None:
    """What a tokenizer whose files do not fit its class makes of every text is what it makes of none."""
    if any(text.strip() for text in texts) and all(ids == nothing for ids in encoded):
        raise SettingsError(
            f"the tokenizer makes no tokens of any of {len(texts)} text(s): its files do not go with its class "
            f"({type(tokenizer).__name__}); give model.id the tokenizer that the model was trained with."
        )


def _each_by_itself(
    ids_of: Callable[[list[str]], list[list[int]]], texts: list[str], *, max_tokens: int
) -> list[list[int]]:
    """All at once if that works; otherwise text by text, with no ids for those that fail."""
    found = _ids_or_none(ids_of, texts)
    if found is None:
        found = [(_ids_or_none(ids_of, [text]) or [[]])[0] for text in texts]
    return [ids if _are_ids(ids, max_tokens) else [] for ids in found]


def _ids_or_none(ids_of: Callable[[list[str]], list[list[int]]], texts: list[str]) -> list[list[int]] | None:
    """One answer for each text, or None, whatever goes wrong: a tokenizer's own panic is no `Exception`."""
    try:
        found = list(ids_of(texts))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        log.warning("%d text(s) cannot be tokenised", len(texts), exc_info=len(texts) > 1)
        return None
    return found if len(found) == len(texts) else None


def _are_ids(ids: object, max_tokens: int) -> bool:
    """Whether these are token ids, and no more than were asked for."""
    return (
        isinstance(ids, list)
        and len(ids) <= max_tokens
        and all(type(number) is int and 0 <= number < LARGEST_ID for number in ids)
    )
