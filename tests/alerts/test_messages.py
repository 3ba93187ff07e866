from __future__ import annotations

from typing import Any

import pytest

from airflow_ibkr_plugin.alerts.messages import NO_ORDERS, TAIL_LINES, AlertMessage, Cause, Severity, run_failed
from airflow_ibkr_plugin.errors import Family


def message(**changes: Any) -> AlertMessage:
    fields: dict[str, Any] = {
        "strategy": "momentum",
        "dag_id": "momentum",
        "run_id": "scheduled__2026-01-05",
        "reason": "task_failure",
        "failed_tasks": ["symbol.order[2]"],
        "cause": Cause(task="symbol.order[2]", error_type="OrderRejected", message="201:\n no margin.", family=None),
        "orders": [],
        "log_tail": "",
        "airflow_url": "http://airflow/dags/momentum",
        "mlflow_url": "",
    }
    return run_failed(**(fields | changes))


def test_what_failed_and_why_in_one_line() -> None:
    assert message().summary == "symbol.order[2] failed: OrderRejected: 201: no margin."
    assert message().body().splitlines()[0] == message().summary
    assert message().title == "[IBKR] momentum: run failed"


def test_the_other_failed_tasks_are_named() -> None:
    assert message(failed_tasks=["a", "symbol.order[2]"]).summary.endswith("(also failed: a)")


def test_a_killed_process_left_no_error() -> None:
    assert "killed" in message(failed_tasks=[], cause=None).summary
    assert message(failed_tasks=["a"], cause=None).summary.startswith("a failed, and no error was recorded")


def test_what_was_done_is_always_said() -> None:
    assert f"- {NO_ORDERS}" in message().body()
    ordered = message(orders=["Order BUY 10 SPX: filled."])
    assert "- Order BUY 10 SPX: filled." in ordered.body()
    assert NO_ORDERS not in ordered.body()
    assert "clearing does not send them again" in ordered.next_step


@pytest.mark.parametrize(
    ("family", "severity", "step"),
    [
        (Family.NEEDS_HUMAN, Severity.CRITICAL, "A person must act first"),
        (Family.RETRY, Severity.ERROR, "All retries are used up"),
        (Family.RETRY_AFTER, Severity.ERROR, "All retries are used up"),
        (Family.FATAL, Severity.ERROR, "Remove the cause"),
    ],
)
def test_the_family_says_what_to_do(family: Family, severity: Severity, step: str) -> None:
    told = message(cause=Cause(task="a", error_type="E", message="m", family=family))
    assert told.severity is severity
    assert told.next_step.startswith(step)


def test_without_a_known_cause_it_is_no_more_than_an_error() -> None:
    told = message(cause=None)
    assert told.severity is Severity.ERROR
    assert told.next_step == "Remove the cause, then clear the failed tasks in Airflow."


def test_the_whole_text() -> None:
    told = message(orders=["Order BUY 10 SPX: filled."], log_tail="first\nlast\n", mlflow_url="http://mlflow/1")
    assert told.body() == (
        "symbol.order[2] failed: OrderRejected: 201: no margin.\n\n"
        "Already done:\n- Run scheduled__2026-01-05 of DAG momentum.\n- Order BUY 10 SPX: filled.\n\n"
        "What to do: Remove the cause, then clear the failed tasks in Airflow."
        " The orders above stand; clearing does not send them again.\n\n"
        "Airflow: http://airflow/dags/momentum\nMLflow: http://mlflow/1\n\n"
        "Last 2 lines of the log:\nfirst\nlast"
    )


def test_only_the_end_of_the_log() -> None:
    body = message(log_tail="\n".join(f"line {n}" for n in range(100)) + "\n").body()
    assert body.endswith("line 99")
    assert f"Last {TAIL_LINES} lines of the log:\nline {100 - TAIL_LINES}\n" in body


def test_empty_lines_are_no_end_of_a_log() -> None:
    assert message(log_tail="first\nlast\n \n\n").body().endswith("Last 2 lines of the log:\nfirst\nlast")
    assert "of the log" not in message(log_tail=" \n\n").body()


def test_links_that_exist() -> None:
    assert "MLflow" not in message().body()
    assert "MLflow: http://mlflow/1" in message(mlflow_url="http://mlflow/1").body()
    assert "Airflow: http://airflow/dags/momentum" in message().body()
