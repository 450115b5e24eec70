"""Finding and opening the store: SQLite in a file, PostgreSQL by URL, migrated to the newest schema.

SQLite is opened in WAL mode: whoever reads never blocks the loop, and is never blocked by it. Nobody waits longer than
WAIT_S for the database, whichever it is.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError, SQLAlchemyError

from fedlora.settings import SettingsError

WAIT_S = 5
MIGRATIONS = Path(__file__).parent / "migrations"
NEWEST = "0005"
NONE = "none"
FILE = "fedlora.db"
_LOCK = 0x6665646C6F7261  # the bytes of "fedlora": PostgreSQL's advisory lock while the schema is changed


@dataclass(frozen=True)
class Store:
    """An open database with the newest schema."""

    engine: Engine

    @property
    def url(self) -> str:
        """Without the password."""
        return self.engine.url.render_as_string(hide_password=True)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One moment: whatever is read fits together, whoever writes meanwhile."""
        with self.engine.connect() as connection:
            if connection.dialect.name == "postgresql":  # SQLite reads so by itself
                connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction: all of it, or nothing."""
        with self.engine.connect() as connection, connection.execution_options(fedlora_writes=True).begin():
            yield connection

    def close(self) -> None:
        self.engine.dispose()


def store_beside(out: Path) -> str | None:
    """The store of a simulation that writes to `out`: FEDLORA_STORE, else fedlora.db in the folder that contains it.

    None where FEDLORA_STORE is `none`.
    """
    given = os.environ.get("FEDLORA_STORE")
    if given == NONE:
        return None
    return given or str(out.parent / FILE)


def store_here() -> str:
    """The store for reading: FEDLORA_STORE, else the store of the server.yaml here, else runs/fedlora.db."""
    given = os.environ.get("FEDLORA_STORE")
    if given == NONE:
        raise SettingsError("FEDLORA_STORE=none: the store is turned off; unset it, or name one with --store.")
    if given:
        return given
    if Path("server.yaml").exists():
        from server.settings import load_server

        return load_server(Path("server.yaml")).store_url
    return str(Path("runs") / FILE)


def open_store(where: str | Path) -> Store:
    """Open, creating or migrating it as needed. SettingsError says what is wrong with it."""
    url = _url(str(where))
    engine = _engine(url)
    try:
        if _is_file(url):
            Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
        _bring_up(engine)
    except (SQLAlchemyError, OSError) as error:
        engine.dispose()
        raise SettingsError(_why(url, error)) from None
    except SettingsError:
        engine.dispose()
        raise
    return Store(engine)


def open_existing(where: str | Path) -> Store:
    """Open an existing store; SettingsError if there is no SQLite file yet, so that reading never creates one."""
    url = _url(str(where))
    if _is_file(url) and not Path(str(url.database)).exists():
        raise SettingsError(
            f"there is no store at {url.database} yet; start a run (fedlora simulate), or name another with --store."
        )
    return open_store(where)


def _url(where: str) -> URL:
    """A URL, or the path of an SQLite file."""
    if "://" not in where:
        return URL.create("sqlite", database=where)
    try:
        url = make_url(where)
    except ArgumentError:
        raise SettingsError(f"the store {where!r} is not a URL; write sqlite:///path/to/file.db.") from None
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise SettingsError(f"the store {url.drivername}:// is not supported; use sqlite:///file.db or postgresql://.")
    return url


def _is_file(url: URL) -> bool:
    return url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:")


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        if not _is_file(url):
            raise SettingsError("the store must be a file: several processes share it. Write sqlite:///file.db.")
        engine = create_engine(url, connect_args={"timeout": WAIT_S})
        event.listen(engine, "connect", _sqlite_session)
        event.listen(engine, "begin", _sqlite_begin)
        return engine
    options = f"-c statement_timeout={WAIT_S * 1000} -c lock_timeout={WAIT_S * 1000}"
    arguments = {"connect_timeout": WAIT_S, "options": options, "application_name": "fedlora"}
    try:
        return create_engine(url, connect_args=arguments, pool_pre_ping=True)
    except (NoSuchModuleError, ModuleNotFoundError):
        raise SettingsError("a PostgreSQL store needs psycopg: pip install 'fedlora[postgresql]'.") from None


def _sqlite_session(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where SQLAlchemy says so, not where the driver guesses
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _sqlite_begin(connection: Connection) -> None:
    """A writer takes the lock at once (`writing`): one that reads first and writes later can find it too late."""
    immediate = connection.get_execution_options().get("fedlora_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _bring_up(engine: Engine) -> None:
    with engine.connect() as connection:
        if _revision(connection) == NEWEST:
            return
    with _alone(engine) as connection:
        found = _revision(connection)
        if found == NEWEST:
            return
        if found is not None and found > NEWEST:
            raise SettingsError(
                f"the store {engine.url.render_as_string()} was written by a newer fedlora (schema {found}, this one "
                f"knows {NEWEST}); upgrade fedlora, or use another store."
            )
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


@contextmanager
def _alone(engine: Engine) -> Iterator[Connection]:
    """One process at a time changes the schema."""
    if engine.dialect.name == "sqlite":
        with Path(f"{engine.url.database}.lock").open("w") as file, engine.connect() as connection:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield connection
        return
    with engine.connect() as connection:
        connection.execute(text(f"SELECT pg_advisory_lock({_LOCK})"))
        try:
            yield connection
        finally:
            connection.rollback()
            connection.execute(text(f"SELECT pg_advisory_unlock({_LOCK})"))
            connection.commit()


def _why(url: URL, error: Exception) -> str:
    said = str(error.orig if isinstance(error, DatabaseError) else error).strip().splitlines()[0]
    shown = url.render_as_string(hide_password=True)
    if url.get_backend_name() == "sqlite":
        way_out = "Choose another file with FEDLORA_STORE, or FEDLORA_STORE=none for a simulation without a store."
    else:
        way_out = "Is the server running, and does the URL name its host, database, user and password?"
    return f"cannot use the store {shown}: {said}. {way_out}"
