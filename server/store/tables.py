"""The tables. A change here is a migration there (`migrations/versions/`); a test compares the two.

    runs ─┬─ rounds ── client_rounds     what happened, a row a client and round
          ├─ run_sites, failures         the same, added up as it is written, so that no page has to
          ├─ run_spent                   what the run may have cost every site, tasks without a receipt included
          ├─ orders                      what people asked of a run; never changed, only answered
          └─ receipts ── accounts ── charges     what sites have spent: these outlive their run
    events ── deliveries                 the audit log, and what of it was sent to whom

Times are Unix seconds, sizes bytes. `metrics` is what the task measured besides the loss, as JSON; NULL where the score
is all of it. Flower's node ids do not fit a signed 64-bit column: they are text.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

Whole = BigInteger
Key = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows itself only under this name


def _of_run() -> Column[int]:
    return Column("run_id", Key, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)


runs = Table(
    "runs",
    metadata,
    Column("id", Key, primary_key=True),
    Column("run", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("group", Text),  # the comparison that it is one of
    Column("method", Text),
    Column("changed", Text),  # of its recipe's file, as JSON; NULL where nobody said
    Column("seed", Whole),
    Column("kind", Text, nullable=False),
    Column("coordinator", Text, nullable=False),
    Column("folder", Text, nullable=False),
    Column("strategy", Text, nullable=False),
    Column("recipe", Text, nullable=False),
    Column("versions", Text, nullable=False),
    Column("dense_bytes", Whole),
    Column("rounds_wanted", Whole, nullable=False),
    Column("state", Text, nullable=False),
    Column("why", Text),
    Column("host", Text),
    Column("pid", Whole),
    Column("born", Text),
    Column("begun_at", Double, nullable=False),
    Column("heard_at", Double, nullable=False),
    Column("ended_at", Double),
    Column("round_begun_at", Double),
    Column("asked", Whole),
    Column("answered", Whole),
    Column("connected", Whole),
    Column("needed", Whole),
    Column("waits_until", Double),
    Column("rounds", Whole, nullable=False, default=0),
    Column("seconds", Double, nullable=False, default=0.0),
    Column("recent_seconds", Double),
    Column("metric", Text, nullable=False),  # what the task is compared by; score and best_score are its values
    Column("larger_is_better", Boolean, nullable=False),
    Column("unit", Text, nullable=False),
    Column("score", Double),
    Column("best_score", Double),
    Column("metrics", Text),
    Column("loss", Double),
    Column("aggregation_error_max", Double),
    Column("bytes_up", Whole, nullable=False, default=0),
    Column("bytes_down", Whole, nullable=False, default=0),
    Column("dense_up", Whole, nullable=False, default=0),
    Column("dense_down", Whole, nullable=False, default=0),
    Column("epsilon_max", Double),
    Column("insecure", Boolean, nullable=False, default=False),
    Index("runs_by_name", "name"),
    Index("runs_by_group", "group"),
)

rounds = Table(
    "rounds",
    metadata,
    _of_run(),
    Column("round", Whole, primary_key=True),
    Column("finished_at", Double, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("score", Double),
    Column("metrics", Text),
    Column("loss", Double),
    Column("examples", Whole),
    Column("client_score", Double),
    Column("client_loss", Double),
    Column("train_loss", Double),
    Column("aggregation_error", Double),
    Column("base_version", Whole, nullable=False),
    Column("asked", Whole, nullable=False),
    Column("trained", Whole, nullable=False),
    Column("refused", Whole, nullable=False),
    Column("failed", Whole, nullable=False),
    Column("late", Whole, nullable=False),
    Column("bytes_up", Whole, nullable=False),
    Column("bytes_down", Whole, nullable=False),
    Column("epsilon_max", Double),
    sqlite_with_rowid=False,
)

sites = Table(
    "sites",
    metadata,
    Column("id", Key, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("missing_since", Double),
    UniqueConstraint("kind", "name"),
)

client_rounds = Table(
    "client_rounds",
    metadata,
    _of_run(),
    Column("round", Whole, primary_key=True),
    Column("position", Whole, primary_key=True),  # not the site: two nodes may claim one name, which is worth seeing
    Column("site_id", Key, ForeignKey("sites.id"), nullable=False),
    Column("outcome", Text, nullable=False),
    Column("code", Text),
    Column("examples", Whole, nullable=False),
    Column("bytes_up", Whole, nullable=False),
    Column("bytes_down", Whole, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("score", Double),
    Column("metrics", Text),
    Column("loss", Double),
    Column("train_loss", Double),
    Column("epsilon_run", Double),
    sqlite_with_rowid=False,
)

run_sites = Table(
    "run_sites",
    metadata,
    _of_run(),
    Column("site_id", Key, ForeignKey("sites.id"), primary_key=True),
    Column("node", Text, nullable=False),
    Column("asked", Whole, nullable=False),
    Column("trained", Whole, nullable=False),
    Column("refused", Whole, nullable=False),
    Column("failed", Whole, nullable=False),
    Column("late", Whole, nullable=False),
    Column("misses", Whole, nullable=False),
    Column("bytes_up", Whole, nullable=False),
    Column("bytes_down", Whole, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("last_round", Whole, nullable=False),
    Column("last_asked_at", Double, nullable=False),
    Column("last_heard_at", Double),
    Column("last_seconds", Double),
    Column("last_outcome", Text, nullable=False),
    Column("last_code", Text),
    Column("examples", Whole),
    Column("score", Double),
    Column("metrics", Text),
    Column("loss", Double),
    Column("resources", Text),
    Column("machine", Text),
    Index("run_sites_by_site", "site_id"),
    sqlite_with_rowid=False,
)

failures = Table(
    "failures",
    metadata,
    _of_run(),
    Column("site_id", Key, ForeignKey("sites.id"), primary_key=True),
    Column("outcome", Text, primary_key=True),
    Column("code", Text, primary_key=True),
    Column("count", Whole, nullable=False),
    Column("last_round", Whole, nullable=False),
    Column("last_at", Double, nullable=False),
    sqlite_with_rowid=False,
)

run_spent = Table(
    "run_spent",
    metadata,
    _of_run(),
    Column("site_id", Key, ForeignKey("sites.id"), primary_key=True),
    Column("epsilon", Double, nullable=False),  # at most: what was sent and has no receipt is counted as charged
    Column("confirmed", Double, nullable=False),  # by the site's newest receipt of the run
    Column("unconfirmed", Whole, nullable=False),  # tasks that were sent and that no receipt covers
    Index("run_spent_by_site", "site_id"),
    sqlite_with_rowid=False,
)

accounts = Table(
    "accounts",
    metadata,
    Column("id", Key, primary_key=True),
    Column("site_id", Key, ForeignKey("sites.id"), nullable=False),
    Column("dataset", Text, nullable=False),
    Column("public_key", Text, nullable=False),  # a ledger is known by the key that signs for it; empty: not signed
    Column("receipts", Whole, nullable=False),
    Column("unverified", Whole, nullable=False),
    Column("insecure", Whole, nullable=False),
    Column("first_at", Double, nullable=False),
    Column("last_at", Double, nullable=False),
    Column("sequence", Whole, nullable=False),
    Column("newest", Text, nullable=False),  # the newest receipt, by sequence number, as JSON
    Column("warned", Boolean, nullable=False, default=False),
    UniqueConstraint("site_id", "dataset", "public_key"),
)

charges = Table(
    "charges",
    metadata,
    Column("account_id", Key, ForeignKey("accounts.id", ondelete="CASCADE"), primary_key=True),
    Column("rate", Double, primary_key=True),
    Column("noise_multiplier", Double, primary_key=True),
    Column("steps", Whole, nullable=False),
)

receipts = Table(
    "receipts",
    metadata,
    Column("account_id", Key, ForeignKey("accounts.id", ondelete="CASCADE"), primary_key=True),
    Column("digest", Text, primary_key=True),  # the same receipt again is a retried task
    Column("sequence", Whole, nullable=False),
    Column("run", Text, nullable=False),
    Column("round", Whole, nullable=False),
    Column("at", Double, nullable=False),
    Column("receipt", Text, nullable=False),
    Column("signature", Text),
    Column("verified", Boolean, nullable=False),
    Index("receipts_by_run", "run", "round"),
    sqlite_with_rowid=False,
)

orders = Table(
    "orders",
    metadata,
    Column("id", Key, primary_key=True),
    Column("run_id", Key, ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    Column("verb", Text, nullable=False),
    Column("argument", Text),
    Column("who", Text, nullable=False),
    Column("placed_at", Double, nullable=False),
    Column("taken_at", Double),
    Column("outcome", Text),
    Index("orders_by_run", "run_id"),
)

events = Table(
    "events",
    metadata,
    Column("sequence", Key, primary_key=True, autoincrement=False),
    Column("at", Double, nullable=False),
    Column("kind", Text, nullable=False),
    Column("who", Text, nullable=False),
    Column("run", Text),
    Column("line", Text, nullable=False),
    Index("events_by_kind", "kind"),
    Index("events_by_run", "run"),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("hook", Text, primary_key=True),
    Column("sequence", Key, primary_key=True),
    Column("state", Text, nullable=False),
    Column("attempts", Whole, nullable=False),
    Column("at", Double, nullable=False),
    Column("why", Text),
)
