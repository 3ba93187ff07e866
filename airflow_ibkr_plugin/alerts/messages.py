"""What an alert says: plain text that reads the same in an email, in Slack and on a phone. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from airflow_ibkr_plugin.errors import Family

TAIL_LINES = 40

NO_ORDERS = "No order of this run reached the broker."


class Severity(StrEnum):
    """How urgent an alert is, the mildest first."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"  # money is at stake or a person must act


@dataclass(frozen=True, kw_only=True)
class AlertMessage:
    """One alert.

    :param title: one line that tells alerts apart in a list.
    :param summary: what failed and why, one line.
    :param done: what had already happened, orders first; one line each.
    :param next_step: what to do now.
    :param log_tail: the end of the log, as it stands in the log; only the last `TAIL_LINES` lines are shown.
    :param links: label -> address.
    """

    severity: Severity
    title: str
    summary: str
    done: Sequence[str] = ()
    next_step: str = ""
    log_tail: str = ""
    links: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> str:
        """The text below the title."""
        parts = [self.summary]
        if self.done:
            parts.append("Already done:\n" + "\n".join(f"- {line}" for line in self.done))
        if self.next_step:
            parts.append(f"What to do: {self.next_step}")
        if self.links:
            parts.append("\n".join(f"{label}: {url}" for label, url in self.links.items()))
        if self.log_tail.strip():
            tail = self.log_tail.rstrip().splitlines()[-TAIL_LINES:]
            parts.append(f"Last {len(tail)} lines of the log:\n" + "\n".join(tail))
        return "\n\n".join(parts)


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Why a task failed, as it was stored.

    :param task: task id, with the map index where it is mapped.
    :param family: of the error where it is one of ours, else None.
    :param message: with its remedy.
    """

    task: str
    error_type: str
    message: str
    family: Family | None


def run_failed(
    *,
    strategy: str,
    dag_id: str,
    run_id: str,
    reason: str,
    failed_tasks: Sequence[str],
    cause: Cause | None,
    orders: Sequence[str],
    log_tail: str,
    airflow_url: str,
    mlflow_url: str,
) -> AlertMessage:
    """The alert that a run failed after its last retry.

    :param reason: Airflow's, such as `task_failure` or `timed_out`.
    :param cause: of the first failed task; None where no task could tell, as after a kill.
    :param orders: one line for each order of the run that is or may be at the broker.
    """
    tasks = ", ".join(failed_tasks)
    if cause is not None:
        others = [task for task in failed_tasks if task != cause.task]
        summary = f"{cause.task} failed: {cause.error_type}: {_one_line(cause.message)}"
        summary += f" (also failed: {', '.join(others)})" if others else ""
    elif tasks:
        summary = f"{tasks} failed, and no error was recorded ({reason}): see the log in Airflow."
    else:
        summary = f"The run failed ({reason}) and no task recorded an error: its process may have been killed."
    needs_human = cause is not None and cause.family is Family.NEEDS_HUMAN
    links = {"Airflow": airflow_url, "MLflow": mlflow_url}
    return AlertMessage(
        severity=Severity.CRITICAL if needs_human else Severity.ERROR,
        title=f"[IBKR] {strategy}: run failed",
        summary=summary,
        done=[f"Run {run_id} of DAG {dag_id}.", *(orders or [NO_ORDERS])],
        next_step=_next_step(cause, bool(orders)),
        log_tail=log_tail,
        links={label: url for label, url in links.items() if url},
    )


def _next_step(cause: Cause | None, ordered: bool) -> str:
    family = cause.family if cause is not None else None
    if family is Family.NEEDS_HUMAN:
        step = "A person must act first, as the error says; then clear the failed tasks in Airflow."
    elif family in (Family.RETRY, Family.RETRY_AFTER):
        step = "All retries are used up. When the cause has passed, clear the failed tasks in Airflow."
    else:
        step = "Remove the cause, then clear the failed tasks in Airflow."
    if ordered:
        step += " The orders above stand; clearing does not send them again."
    return step


def _one_line(text: str) -> str:
    return " ".join(text.split())
