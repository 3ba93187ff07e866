"""Which schema this code is written for. Kept apart from the migrations, so that nothing here loads alembic."""

from __future__ import annotations

VERSION_TABLE = "ibkr_alembic_version"
# Every revision this code knows, oldest first; a test holds it against the migrations.
REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008")
HEAD = REVISIONS[-1]
MIGRATE_COMMAND = "airflow ibkr db migrate"
