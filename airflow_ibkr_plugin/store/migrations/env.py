"""Runs the migrations in the transaction that :func:`airflow_ibkr_plugin.store.migrate.migrate` has opened."""

from alembic import context

from airflow_ibkr_plugin.store.models import Base
from airflow_ibkr_plugin.store.schema import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,  # on SQLite too, as the engine begins its transactions itself
)
with context.begin_transaction():
    context.run_migrations()
