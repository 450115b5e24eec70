"""A store as an older fedlora left it: its schema, with rows in it."""

from __future__ import annotations

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Engine, text

from fedlora.tasks.guessing import ACCURACY
from server.store.keys import RunKey
from server.store.opening import MIGRATIONS, Store
from server.store.reading import find_run, read_client_rounds, read_rounds, read_run_sites
from server.store.sums import recount
from server.store.tables import metadata

BEFORE_TASKS = """
INSERT INTO runs (id, run, name, kind, coordinator, folder, strategy, recipe, versions, rounds_wanted, state, begun_at,
  heard_at, rounds, seconds, accuracy, best_accuracy, loss, bytes_up, bytes_down, dense_up, dense_down, insecure)
  VALUES (1, 'rrrr', 'old', 'simulation', 'local', '/', 'fedsvd', '{}', '{}', 9, 'finished', 1, 2, 1, 1.0,
  0.30000000000000004, 0.9, 0.5, 0, 0, 0, 0, false);
INSERT INTO sites (id, kind, name) VALUES (1, 'simulation', 'a');
INSERT INTO rounds (run_id, round, finished_at, seconds, accuracy, client_accuracy, base_version, asked, trained,
  refused, failed, late, bytes_up, bytes_down) VALUES (1, 1, 1, 1, 0.30000000000000004, 0.2, 0, 1, 1, 0, 0, 0, 0, 0),
  (1, 2, 1, 1, NULL, NULL, 0, 1, 1, 0, 0, 0, 0, 0);
INSERT INTO client_rounds (run_id, round, position, site_id, outcome, examples, bytes_up, bytes_down, seconds, accuracy)
  VALUES (1, 1, 0, 1, 'trained', 3, 0, 0, 1, 0.1);
INSERT INTO run_sites (run_id, site_id, node, asked, trained, refused, failed, late, misses, bytes_up, bytes_down,
  seconds, last_round, last_asked_at, last_outcome, accuracy)
  VALUES (1, 1, 'n', 1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 'trained', 0.1)
"""


def require_scores_of_before(store: Store) -> None:
    """What `BEFORE_TASKS` put into the tables of schema 0003, as it is read today."""
    with store.reading() as connection:
        run = find_run(connection, "old")
        first, second = read_rounds(connection, run)
        (cell,), (site,) = read_client_rounds(connection, run), read_run_sites(connection, run)
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    assert run.judged_by == ACCURACY
    assert (run.score, run.best_score, run.metrics) == (0.1 + 0.2, 0.9, {"accuracy": 0.1 + 0.2})
    assert (first.score, first.client_score, first.metrics) == (0.1 + 0.2, 0.2, {"accuracy": 0.1 + 0.2})
    assert (second.score, second.metrics) == (None, {})
    assert (cell.score, site.score, cell.metrics) == (0.1, 0.1, {"accuracy": 0.1})
    with store.writing() as connection:
        recount(connection, RunKey(run.id, run.run, run.kind, 0, run.judged_by))
        assert find_run(connection, "old").score == 0.1 + 0.2


def migrated(engine: Engine, revision: str, *statements: str) -> None:
    """Bring a database to an older schema, with rows in it."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        for statement in statements:
            connection.execute(text(statement))
