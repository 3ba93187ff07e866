"""A real api-server over a real installation: databases, logins, the example workflows, some stored runs.

Its `[api] base_url` has a path, as behind a reverse proxy: links that forget it lead nowhere.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_ibkr_plugin.cli.local.layout import ADMIN, Layout, Ports
from airflow_ibkr_plugin.cli.local.setup import prepare

AIRFLOW = str(Path(sys.executable).with_name("airflow"))
PREFIX = "/airflow"
EXAMPLES = Path(__file__).parents[2] / "example_configs"
PAGE = "/pluginsv2/ibkr/strategies"
CHART = "/pluginsv2/ibkr/charts/1.png"
AT = datetime(2018, 6, 13, 14, 30, tzinfo=UTC)


@dataclass
class Site:
    """The running api-server and how to log in to it."""

    layout: Layout
    passwords: dict[str, str]
    # The page and the chart, asked for while the trading database was away.
    without_database: dict[str, httpx.Response] = field(default_factory=dict)

    def client(self, user: str | None) -> httpx.Client:
        """A client logged in as that user, by a bearer token; anonymous for None. Follows no redirects."""
        address = f"http://127.0.0.1:{self.layout.ports.airflow}{PREFIX}"
        http = httpx.Client(base_url=address, timeout=30, trust_env=False)
        if user is not None:
            login = {"username": user, "password": self.passwords[user]}
            token = http.post("/auth/token", json=login).raise_for_status().json()["access_token"]
            http.headers["Authorization"] = f"Bearer {token}"
        return http


def _airflow(environment: dict[str, str], *arguments: str) -> None:
    done = subprocess.run([AIRFLOW, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An api-server with the examples' DAGs, one stored run with hostile text, and three logins."""
    layout = Layout(home=tmp_path_factory.mktemp("site") / "home", ports=Ports.free())
    prepare(layout, EXAMPLES, print)
    environment = os.environ | layout.environment() | {"AIRFLOW__API__BASE_URL": f"{layout.airflow_url}{PREFIX}"}
    passwords = {ADMIN: layout.secrets()["password"]}
    for name, role in (("viewer", "Viewer"), ("nobody", "Public")):
        passwords[name] = f"password-of-{name}"
        _airflow(
            environment, "users", "create", "--username", name, "--role", role, "--email", f"{name}@localhost",
            "--firstname", name, "--lastname", name, "--password", passwords[name],
        )  # fmt: skip
    _airflow(environment, "dags", "reserialize")
    store_run(layout)
    database = layout.home / "ibkr" / "trading.db"
    away = database.rename(database.with_suffix(".away"))
    log = (layout.logs / "api-server.log").open("w")
    server = subprocess.Popen([AIRFLOW, "api-server"], env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        found = Site(layout=layout, passwords=passwords)
        _wait(found, server)
        found.without_database = {path: found.client(ADMIN).get(path) for path in (PAGE, CHART)}
        away.rename(database)
        yield found
    finally:
        server.terminate()
        server.wait(timeout=30)
        log.close()


def _wait(site: Site, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while True:
        assert server.poll() is None, (site.layout.logs / "api-server.log").read_text()[-3000:]
        try:
            if site.client(None).get("/api/v2/monitor/health").status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.5)


def store_run(layout: Layout) -> None:
    """One finished run of `momentum_replay` with a chart, a signal and an MLflow run."""
    from airflow_ibkr_plugin.analysis.chart_storage import save_chart
    from airflow_ibkr_plugin.analysis.charts import draw_chart
    from airflow_ibkr_plugin.store.charts import Charts
    from airflow_ibkr_plugin.store.database import Database
    from airflow_ibkr_plugin.store.runs import Runs
    from airflow_ibkr_plugin.store.signals import Signals
    from airflow_ibkr_plugin.trading.bars import Bar

    days = [datetime(2018, 5, day, tzinfo=UTC) for day in range(1, 29)]
    bars = [Bar(time=at, open=100, high=103, low=98, close=101 + n % 3, volume=5) for n, at in enumerate(days)]
    image = draw_chart(bars, symbol="XSPX", bar_size="1 day", indicators=[], label="SIMULATED")
    url = save_chart(image, f"file://{layout.home}/ibkr/charts", "momentum_replay/test.png")
    key: dict[str, Any] = {"dag_id": "momentum_replay", "run_id": "manual__1"}
    with Database(f"sqlite:///{layout.home}/ibkr/trading.db").write() as session:
        run, _ = Runs(session).get_or_create(
            **key, strategy="momentum_replay", mode="paper", source="simulator:ibkr_default", account="DU1234567",
            config={}, config_hash="0", simulated_clock=True, started_at=AT,
        )  # fmt: skip
        Runs(session).set_mlflow(**key, experiment="ibkr/momentum_replay", experiment_id="7", mlflow_run_id="abc123")
        chart = Charts(session).add(
            **key, task_id="symbol.chart", symbol="XSPX", con_id=1, source=run.source, url=url, sha256=image.sha256,
            size_bytes=len(image.png), width=image.width, height=image.height, bar_size="1 day", first_bar=days[0],
            last_bar=days[-1], indicators=[], created_at=AT,
        )  # fmt: skip
        Signals(session).add(
            **key, task_id="symbol.signal", strategy="momentum_replay", symbol="XSPX", con_id=1, source=run.source,
            action="buy", confidence=0.8, entry=None, stop=None, target=None, horizon_days=None,
            rationale="", analyst="rules", model="<script>alert(1)</script>", is_llm=False, prompt_name="p",
            prompt_version="1", prompt_sha256="0", chart_id=chart.id, as_of=AT, raw="{}", usage={}, created_at=AT,
        )  # fmt: skip
