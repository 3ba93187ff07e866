from __future__ import annotations

from urllib.parse import unquote, urlsplit

import pytest

from airflow_ibkr_plugin.operators.callbacks import run_page


@pytest.mark.parametrize(
    "run_id",
    ["manual__2026-11-21T17:28:11.5+00:00", "a person's / id", "50 % more?", "#1", "über"],
)
def test_the_address_of_a_run_leads_to_that_run_whatever_its_id(run_id: str) -> None:
    address = run_page("http://localhost:8080/airflow", "momentum", run_id)
    parts = urlsplit(address)
    assert (parts.query, parts.fragment) == ("", "")
    folder, dags, dag_id, runs, last = parts.path[1:].split("/")
    assert (folder, dags, dag_id, runs, unquote(last)) == ("airflow", "dags", "momentum", "runs", run_id)
    assert " " not in address
    assert "+" not in address
