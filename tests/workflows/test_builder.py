"""The DAG that a configuration becomes, run by Airflow itself."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from freezegun import freeze_time

from airflow_ibkr_plugin.errors import PackageError
from airflow_ibkr_plugin.registry import Registry, get_registry
from airflow_ibkr_plugin.workflows import builder
from airflow_ibkr_plugin.workflows.builder import build_dag
from airflow_ibkr_plugin.workflows.checks import Checker
from airflow_ibkr_plugin.workflows.loader import load_folder, load_text
from airflow_ibkr_plugin.workflows.model import canonical

EXAMPLES = Path(__file__).parents[2] / "example_configs"
HEAVY = ["mlflow", "pandas", "matplotlib", "ib_insync", "ib_async", "pydantic_ai", "talib", "exchange_calendars"]
SHAPE = """\
id: {id}
symbols: [AAPL, {{symbol: MSFT, primary_exchange: NASDAQ}}, EUR.USD]
defaults: {{retries: 0}}
tasks:
  before: {{type: report}}
  fetch:
    type: fetch
    for_each: symbol
    needs: [before]
    parameters: {{fail_for: "{fail_for}"}}
  act:
    type: act
    for_each: symbol
    needs: [fetch]
  join:
    type: report
    needs: [act]
"""


def text_of(yaml: str, checker: Checker) -> str:
    (loaded,) = load_text(yaml.encode(), Path("w.yaml"), checker)
    assert loaded.workflow is not None, loaded.error
    return canonical(loaded.workflow.config)


def run(dag: Any) -> tuple[str, dict[tuple[str, int], tuple[str, str | None]], dict[str, Any]]:
    """Run a DAG by Airflow's own `dag.test()`: its state, the state and label of each task instance, and its XComs."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    DagBundlesManager().sync_bundles_to_db()
    bag = DagBag(collect_dags=False)
    bag.bag_dag(dag)
    sync_bag_to_db(bag, "dags-folder", None)
    result = dag.test()
    states = {(ti.task_id, ti.map_index): (str(ti.state), ti.rendered_map_index) for ti in result.get_task_instances()}
    with create_session() as session:
        rows = session.query(XComModel).filter_by(dag_id=dag.dag_id, run_id=result.run_id, key="return_value").all()
        xcoms = {f"{row.task_id}[{row.map_index}]": XComModel.deserialize_value(row) for row in rows}
    return str(result.state), states, xcoms


@pytest.mark.airflow
def test_one_symbols_failure_leaves_the_others_and_the_join_and_the_run_is_failed(
    airflow_home: Path, operators: None, registry: Registry, checker: Checker
) -> None:
    yaml = SHAPE.format(id="partial", fail_for="AAPL")
    dag = build_dag(text_of(yaml, checker), origin="w.yaml", registry=registry)
    state, tasks, xcoms = run(dag)
    assert state == "failed"
    assert tasks == {
        ("start_run", -1): ("success", None),
        ("before", -1): ("success", None),
        ("symbol.fetch", 0): ("failed", "AAPL"),
        ("symbol.fetch", 1): ("success", "MSFT"),
        ("symbol.fetch", 2): ("success", "EUR.USD"),
        ("symbol.act", 0): ("upstream_failed", tasks["symbol.act", 0][1]),
        ("symbol.act", 1): ("success", "MSFT"),
        ("symbol.act", 2): ("success", "EUR.USD"),
        ("join", -1): ("success", None),
        ("all_succeeded", -1): ("upstream_failed", None),
        ("finish_run", -1): ("success", None),
    }
    # Each symbol's task got what its own upstream returned.
    msft = {"symbol": "MSFT", "primary_exchange": "NASDAQ"}
    assert xcoms["symbol.act[1]"] == {"symbol": msft, "got": msft}
    assert xcoms["symbol.act[2]"] == {"symbol": "EUR.USD", "got": "EUR.USD"}


@pytest.mark.airflow
def test_a_run_without_failures_is_a_success(
    airflow_home: Path, operators: None, registry: Registry, checker: Checker
) -> None:
    yaml = SHAPE.format(id="whole", fail_for="")
    state, tasks, xcoms = run(build_dag(text_of(yaml, checker), origin="w.yaml", registry=registry))
    assert state == "success"
    assert {state for state, _ in tasks.values()} == {"success"}
    (loaded,) = load_text(yaml.encode(), Path("w.yaml"), checker)
    assert xcoms["start_run[-1]"] == loaded.workflow.config_hash


@pytest.mark.airflow
@pytest.mark.usefixtures("operators")
def test_a_failure_before_the_symbols_skips_them_and_the_run_is_still_closed(
    airflow_home: Path, registry: Registry, checker: Checker
) -> None:
    dag = build_dag(text_of(SHAPE.format(id="early", fail_for=""), checker), origin="w.yaml", registry=registry)
    before = dag.get_task("before")
    before.symbol = before.fail_for = "now"
    state, tasks, _ = run(dag)
    assert state == "failed"
    assert tasks["before", -1][0] == "failed"
    assert {state for (task, _), (state, _) in tasks.items() if task.startswith("symbol.")} == {"upstream_failed"}
    assert tasks["finish_run", -1][0] == "success"


def test_defaults_reach_the_tasks(operators: None, registry: Registry, checker: Checker) -> None:
    yaml = """\
id: tuned
symbols: [AAPL]
connection: ibkr_paper
defaults: {retries: 5, retry_delay_seconds: 3, max_retry_delay_seconds: 60, execution_timeout_seconds: 120, queue: q}
tasks:
  auth: {type: auth}
  hand: {type: portfolio, needs: [auth], retries: 0, exponential_backoff: false, pool: mine}
"""
    dag = build_dag(text_of(yaml, checker), origin="w.yaml", registry=registry)
    auth, hand = dag.get_task("auth"), dag.get_task("hand")
    assert (auth.retries, auth.retry_delay, auth.max_retry_delay) == (5, timedelta(seconds=3), timedelta(seconds=60))
    assert (auth.retry_exponential_backoff, auth.pool, auth.queue) == (2.0, "ibkr_ibkr_paper", "q")
    # What waits is bounded by its own `timeout`.
    assert (auth.execution_timeout, hand.execution_timeout) == (None, timedelta(seconds=120))
    assert (hand.retries, hand.retry_exponential_backoff, hand.pool) == (0, 0, "mine")
    assert type(auth.retry_policy).__name__ == "FamilyRetryPolicy"
    assert hand.ibkr_conn_id == "ibkr_paper"
    assert (dag.max_active_runs, dag.catchup, dag.tags) == (1, False, {"ibkr", "paper"})
    assert dag.get_task("start_run").pool == "default_pool"


@pytest.mark.parametrize(
    ("now", "first"),
    [
        ("2024-03-08T14:36:00+00:00", "2024-03-08T14:35:00+00:00"),
        ("2024-03-08T14:41:00+00:00", "2024-03-11T13:35:00+00:00"),  # Monday, and summer time has begun
        ("2024-03-09T04:00:00+00:00", "2024-03-11T13:35:00+00:00"),
    ],
)
def test_a_new_strategy_waits_for_its_time_unless_that_has_just_passed(
    now: str, first: str, operators: None, registry: Registry, checker: Checker
) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    yaml = "id: s\nschedule: 35 9 * * MON-FRI\ntime_zone: America/New_York\ntasks: {p: {type: portfolio}}\n"
    dag = build_dag(text_of(yaml, checker), origin="w.yaml", registry=registry)
    with freeze_time(now):
        scheduled = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
        following = scheduled.next_dagrun_info(last_automated_run_info=None)
    assert following.run_after == datetime.fromisoformat(first)


def test_the_first_day_begins_at_midnight_in_the_strategys_time_zone(
    operators: None, registry: Registry, checker: Checker
) -> None:
    yaml = "id: s\ntime_zone: America/New_York\nstart_date: 2026-03-09\ntasks: {p: {type: portfolio}}\n"
    dag = build_dag(text_of(yaml, checker), origin="w.yaml", registry=registry)
    assert dag.start_date == datetime(2026, 3, 9, 4, tzinfo=UTC)


def test_the_examples_become_dags_with_the_real_operators() -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    loaded = load_folder(EXAMPLES, Checker(get_registry()))
    assert [str(item.error) for item in loaded if item.error] == []
    dags = {
        item.strategy: build_dag(canonical(item.workflow.config), origin=item.file.name)
        for item in loaded
        if item.workflow
    }
    assert set(dags) == {"momentum_replay", "multi_symbol", "forex", "observe"}
    for dag in dags.values():
        assert (
            DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag)).task_dict.keys()
            == dag.task_dict.keys()
        )
    order = dags["momentum_replay"].get_task("symbol.order")
    assert (order.signal_task, order.mode, order.ibkr_conn_id) == ("symbol.signal", "paper", "ibkr_default")
    assert order.risk["momentum.conviction"] == {"min_confidence": 0.5, "max_age_days": 5}
    assert dags["momentum_replay"].get_task("symbol.chart").market_data_task == "symbol.market_data"
    assert dags["momentum_replay"].get_task("market_open").symbols == ["XSPX"]
    assert "rules, not an LLM" in dags["observe"].doc_md
    assert "it observes" in dags["observe"].doc_md
    assert not [task for task in dags["observe"].task_ids if "order" in task]
    finish = dags["observe"].get_task("finish_run")
    assert finish.is_teardown
    assert finish.upstream_task_ids == set(dags["observe"].task_ids) - {"finish_run"}


def test_a_task_type_that_is_not_installed_here_says_so(checker: Checker, operators: None, registry: Registry) -> None:
    text = text_of(SHAPE.format(id="x", fail_for=""), checker)
    with pytest.raises(PackageError, match="'report', which is not installed here"):
        build_dag(text, origin="w.yaml", registry=get_registry())
    with pytest.raises(PackageError, match=r"nowhere\.at_all:Thing cannot be imported"):
        builder.load_object("nowhere.at_all:Thing")


def test_building_a_dag_imports_nothing_heavy(tmp_path: Path) -> None:
    (loaded,) = [item for item in load_folder(EXAMPLES, Checker(get_registry())) if item.strategy == "momentum_replay"]
    assert loaded.workflow is not None
    (tmp_path / "config.json").write_text(canonical(loaded.workflow.config))
    code = (
        "import sys, pathlib; from airflow_ibkr_plugin.workflows.builder import build_dag;"
        "build_dag(pathlib.Path(sys.argv[1]).read_text(), origin='x');"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "config.json")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().splitlines()[-1] == "[]"
