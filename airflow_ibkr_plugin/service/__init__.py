"""`airflow ibkr service`: one process that works for all while no task does, under a leader lease."""
