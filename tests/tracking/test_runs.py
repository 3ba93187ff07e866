"""One MLflow run for each DAG run, with real processes, real kills and a connection that breaks."""

from __future__ import annotations

import http.client
import random
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.runs import Runs
from airflow_ibkr_plugin.tracking.records import begin_run, end_run, log_metrics, set_tags
from airflow_ibkr_plugin.tracking.writer import DrainResult, drain

Key = tuple[str, str]
START = datetime(2026, 1, 5, 14, 30, tzinfo=UTC)
# A drain in another process, optionally killed at a fault point.
SCRIPT = textwrap.dedent(
    """
    import os, signal, sys
    from datetime import UTC, datetime
    from airflow_ibkr_plugin.store.database import Database
    from airflow_ibkr_plugin.store.runs import Runs
    from airflow_ibkr_plugin.tracking import writer

    url, uri, dag_id, run_id, fault = sys.argv[1:]

    def die(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

    if fault == "after MLflow took the rows":
        writer._Drain._done = die
    elif fault == "after MLflow made the run":
        Runs.set_mlflow = die
    now = datetime(2026, 1, 5, 14, 30, tzinfo=UTC)
    result = writer.drain(
        Database(url), uri, now=now, deadline_seconds=120, dag_id=dag_id, run_id=run_id
    )
    print(result)
    sys.exit(0 if result.error is None else 3)
    """
)


def start_drain(tmp_path: Path, uri: str, key: Key, fault: str = "none") -> subprocess.Popen[bytes]:
    arguments = [f"sqlite:///{tmp_path}/trading.db", uri, *key, fault]
    return subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def record(database: Database, key: Key) -> None:
    with database.write() as session:
        row = Runs(session).get(*key)
        assert row is not None
        begin_run(session, row, {"symbols": "SPX"}, {}, START)
        for n in range(10):
            log_metrics(session, key, {"n": n}, START + timedelta(seconds=n), step=n)
            set_tags(session, key, {"n": n}, START)
        end_run(session, key, "FINISHED", START + timedelta(minutes=1))


def check_complete(client: Any, key: Key) -> None:
    experiment = client.get_experiment_by_name(f"ibkr/{key[0]}")
    (only,) = client.search_runs([experiment.experiment_id])
    assert only.info.status == "FINISHED"
    assert only.data.tags["n"] == "9"
    history = client.get_metric_history(only.info.run_id, "n")
    assert [(m.step, m.value) for m in history] == [(n, float(n)) for n in range(10)]


def test_eight_processes_make_one_run(
    database: Database, run: Key, mlflow_server: Any, client: Any, tmp_path: Path
) -> None:
    record(database, run)
    processes = [start_drain(tmp_path, mlflow_server.uri, run) for _ in range(8)]
    output = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, output
    check_complete(client, run)
    assert drain(database, mlflow_server.uri, now=START, deadline_seconds=10) == DrainResult(0, 0, None)


@pytest.mark.parametrize("fault", ["after MLflow took the rows", "after MLflow made the run"])
def test_killed_in_the_middle(
    fault: str, database: Database, run: Key, mlflow_server: Any, client: Any, tmp_path: Path
) -> None:
    record(database, run)
    killed = start_drain(tmp_path, mlflow_server.uri, run, fault)
    output = killed.communicate(timeout=120)
    assert killed.returncode == -9, output

    # The dead process still holds the claim; when it has expired, the next one goes on.
    left = drain(database, mlflow_server.uri, now=START + timedelta(seconds=5), deadline_seconds=10)
    assert (left.sent, left.error) == (0, None)
    done = drain(database, mlflow_server.uri, now=START + timedelta(seconds=400), deadline_seconds=60)
    assert (done.left, done.error) == (0, None)
    check_complete(client, run)


@contextmanager
def proxy(target_port: int, drop: Callable[[str], bool]) -> Iterator[str]:
    """An HTTP proxy that hands each request on, and hangs up instead of answering those that `drop` picks by path."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _hand_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            upstream = http.client.HTTPConnection("127.0.0.1", target_port)
            headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "accept-encoding")}
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            content = answer.read()
            upstream.close()
            if drop(self.path):
                self.close_connection = True
                return
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.getheader("Content-Type", "application/json"))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            self._hand_on()

        def do_POST(self) -> None:
            self._hand_on()

        def log_message(self, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_answer_to_create_is_lost(database: Database, run: Key, mlflow_server: Any, client: Any) -> None:
    record(database, run)
    with proxy(mlflow_server.port, lambda path: "runs/create" in path) as uri:
        lost = drain(database, uri, now=START, deadline_seconds=10)
    assert lost.sent == 0
    assert lost.error is not None
    assert "creating the run" in lost.error
    # Nobody may create it again while the lost request could still be at work, not even on demand.
    key = {"dag_id": run[0], "run_id": run[1]}
    early = drain(database, mlflow_server.uri, now=START + timedelta(seconds=5), deadline_seconds=1, **key)
    assert (early.sent, early.error) == (0, None)
    done = drain(database, mlflow_server.uri, now=START + timedelta(seconds=400), deadline_seconds=60)
    assert done == DrainResult(23, 0, None)
    check_complete(client, run)


def test_a_connection_that_loses_half_the_answers(
    database: Database, run: Key, mlflow_server: Any, client: Any
) -> None:
    record(database, run)
    luck = random.Random(7)
    now, rounds = START, 0
    with proxy(mlflow_server.port, lambda path: "runs/create" not in path and luck.random() < 0.5) as uri:
        while drain(database, uri, now=now, deadline_seconds=60).left:
            now += timedelta(hours=1)
            rounds += 1
            assert rounds < 100
    assert rounds > 0
    check_complete(client, run)


def test_two_installations_share_a_server(
    database: Database, run: Key, mlflow_server: Any, client: Any, tmp_path: Path
) -> None:
    from airflow_ibkr_plugin.store.migrate import migrate

    url = f"sqlite:///{tmp_path}/other.db"
    migrate(url)
    other = Database(url)
    for one in (database, other):
        with one.write() as session:
            row, _ = Runs(session).get_or_create(
                *run, strategy=run[0], mode="paper", config={}, config_hash="abc", started_at=START
            )
            begin_run(session, row, {}, {}, START)
        assert drain(one, mlflow_server.uri, now=START, deadline_seconds=60).left == 0
    other.dispose()
    experiment = client.get_experiment_by_name(f"ibkr/{run[0]}")
    assert len(client.search_runs([experiment.experiment_id])) == 2
