"""The broker seam: the only code that talks to IBKR. Everything above it sees values of `trading/` and `errors`.

Start at :func:`airflow_ibkr_plugin.broker.connect.leased_session`.
"""
