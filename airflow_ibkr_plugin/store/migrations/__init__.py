"""The alembic environment of the trading database."""
