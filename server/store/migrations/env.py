"""Alembic runs this: on the connection that `server.store.opening` has opened, and on no other."""

from __future__ import annotations

from alembic import context

from server.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
