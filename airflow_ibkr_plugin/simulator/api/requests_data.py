"""All requests for market data, and about contracts."""

from __future__ import annotations

from airflow_ibkr_plugin.simulator.api import requests_contracts, requests_history, requests_quotes
from airflow_ibkr_plugin.simulator.api.requests_contracts import one_contract

__all__ = ["HANDLERS", "one_contract"]

HANDLERS = requests_contracts.HANDLERS | requests_history.HANDLERS | requests_quotes.HANDLERS
