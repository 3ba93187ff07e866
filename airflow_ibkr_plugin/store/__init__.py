"""The trading database: what this package must still know tomorrow. A database of its own, never Airflow's.

Open it with :func:`~airflow_ibkr_plugin.store.database.open_database`; each aggregate has a repository in a module
of its own, made with a session: `Bars(session)`. Repositories never commit and never look at a clock.
"""
