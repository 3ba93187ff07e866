"""Airflow sensors. Both are deferrable: while they wait, no worker slot is held."""
