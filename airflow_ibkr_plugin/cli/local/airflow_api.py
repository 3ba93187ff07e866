"""The few calls of Airflow's public REST API (v2) that drive the examples."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx


class AirflowAPI:
    """A logged-in client of one api-server.

    :param base_url: such as `http://127.0.0.1:8080`.
    """

    def __init__(self, base_url: str, username: str, password: str) -> None:
        self._login = {"username": username, "password": password}
        self._http = httpx.Client(base_url=base_url, timeout=30, trust_env=False)

    def healthy(self) -> bool:
        """Whether every component reports healthy; False while the api-server does not answer."""
        try:
            answer = self._http.get("/api/v2/monitor/health")
        except httpx.TransportError:
            return False
        if answer.status_code != httpx.codes.OK:
            return False
        components = ("metadatabase", "scheduler", "triggerer", "dag_processor")
        return all(answer.json().get(name, {}).get("status") == "healthy" for name in components)

    def log_in(self) -> None:
        """Fetch a token. :raises httpx.HTTPStatusError: the login is refused."""
        answer = self._http.post("/auth/token", json=self._login).raise_for_status()
        self._http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def dags(self) -> list[dict[str, Any]]:
        """Every DAG that the dag-processor has seen."""
        return list(self._get("/api/v2/dags", limit=1000, exclude_stale=True)["dags"])

    def import_errors(self) -> list[dict[str, Any]]:
        """Files that did not become DAGs, each with its stack trace."""
        return list(self._get("/api/v2/importErrors")["import_errors"])

    def unpause(self, dag_id: str) -> None:
        """Let a DAG run."""
        self._http.patch(f"/api/v2/dags/{dag_id}", json={"is_paused": False}).raise_for_status()

    def trigger(self, dag_id: str) -> None:
        """Start one manual run now."""
        self._http.post(f"/api/v2/dags/{dag_id}/dagRuns", json={"logical_date": None}).raise_for_status()

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """The DAG's runs, newest first, at most 50."""
        answer = self._get(f"/api/v2/dags/{dag_id}/dagRuns", limit=50, order_by="-run_after")
        return list(answer["dag_runs"])

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """The task instances of one run."""
        answer = self._get(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances", limit=1000)
        return list(answer["task_instances"])

    def _get(self, path: str, **query: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._http.get(path, params=query).raise_for_status().json()
        return answer


def seconds_until_next_run(dag: dict[str, Any]) -> float | None:
    """How long until the DAG's schedule makes its next run; None where nothing is scheduled."""
    due = dag.get("next_dagrun_run_after")
    if not due:
        return None
    return (datetime.fromisoformat(due.replace("Z", "+00:00")) - datetime.now(UTC)).total_seconds()
