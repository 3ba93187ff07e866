"""A workflow's effective configuration, as JSON text, to an Airflow DAG. What stub files call; kept cheap to import.

    start_run -> once-tasks and the group `symbol` (mapped over the symbols) -> finish_run (a teardown)

A task that needs a per-symbol task joins: it runs when that has ended for every symbol, however it ended. So that such
a join cannot turn a run green, `all_succeeded` (an EmptyOperator, never sent to a worker) then needs every task.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from airflow.sdk import DAG, BaseOperator, BaseSensorOperator, CronTriggerTimetable, TriggerRule, task_group

from airflow_ibkr_plugin.errors import PackageError
from airflow_ibkr_plugin.hookspecs import TaskType
from airflow_ibkr_plugin.registry import Registry, get_registry
from airflow_ibkr_plugin.workflows.dag_docs import dag_docs
from airflow_ibkr_plugin.workflows.graph import input_candidates
from airflow_ibkr_plugin.workflows.model import TAG, TaskConfig, Workflow

GROUP = "symbol"
_RETRY_POLICY = "airflow_ibkr_plugin.operators.retry:FamilyRetryPolicy"
_ALERT = "airflow_ibkr_plugin.operators.callbacks:alert_on_failure"
_START = "airflow_ibkr_plugin.operators.run:StartRunOperator"
_FINISH = "airflow_ibkr_plugin.operators.run:FinishRunOperator"
# A strategy that is new runs at once only if its time has just passed: never at night what was meant for the open.
_MISSED_BY_AT_MOST = timedelta(minutes=5)
# Shown instead of the map index. The symbol is a name, or a mapping where a name is not enough.
_SYMBOL_TEMPLATE = "{{ task.symbol if task.symbol is string else task.symbol['symbol'] }}"


def pool_name(connection: str) -> str:
    """The Airflow pool that bounds how many tasks talk to the gateway of a connection at once."""
    return f"ibkr_{connection}"


def build_dag(text: str, *, origin: str, registry: Registry | None = None) -> DAG:
    """Build the DAG of one strategy.

    :param text: the effective configuration as :func:`.model.canonical` writes it. Data; nothing of it is rendered.
    :param origin: the file it came from, for people.
    :param registry: what is installed, by default.
    :raises PackageError: a task type is not installed here, or its operator cannot be imported or made.
    """
    workflow = Workflow.from_config(json.loads(text))
    return _Build(workflow, registry or get_registry()).dag(origin)


class _Build:
    """One DAG in the making."""

    def __init__(self, workflow: Workflow, registry: Registry) -> None:
        self.workflow = workflow
        self.registry = registry
        self.needs = {name: task.needs for name, task in workflow.tasks.items()}
        self.types = {name: task.type for name, task in workflow.tasks.items()}
        self.policy = load_object(_RETRY_POLICY)()
        self.made: dict[str, BaseOperator] = {}

    def dag(self, origin: str) -> DAG:
        workflow = self.workflow
        start_date = None
        if workflow.start_date:
            start_date = datetime.combine(workflow.start_date, datetime.min.time(), ZoneInfo(workflow.time_zone))
        schedule = None
        if workflow.schedule:
            schedule = CronTriggerTimetable(
                workflow.schedule, timezone=workflow.time_zone, run_immediately=_MISSED_BY_AT_MOST
            )
        with DAG(
            workflow.id,
            description=workflow.description.strip().partition("\n")[0] or None,
            schedule=schedule,
            start_date=start_date,
            catchup=False,
            max_active_runs=1,
            tags=sorted({TAG, workflow.mode, *workflow.tags}),
            on_failure_callback=load_object(_ALERT),
            doc_md=dag_docs(workflow, self.registry, origin),
        ) as dag:
            start = self._run_task("start_run", _START, config=workflow.config, config_hash=workflow.config_hash)
            for task in workflow.tasks.values():
                if not task.per_symbol:
                    self._task(task)
            self._symbol_group()
            self._order(start)
        return dag

    def _symbol_group(self) -> None:
        tasks = [task for task in self.workflow.tasks.values() if task.per_symbol]
        if not tasks:
            return

        @task_group(group_id=GROUP)
        def per_symbol(symbol: Any) -> None:
            for task in tasks:
                self._task(task, symbol=symbol, map_index_template=_SYMBOL_TEMPLATE)

        per_symbol.expand(symbol=list(self.workflow.symbols))

    def _order(self, start: BaseOperator) -> None:
        """Set who follows whom, and close the run."""
        joins = []
        for task in self.workflow.tasks.values():
            operator = self.made[task.id]
            start >> operator
            for other in task.needs:
                self.made[other] >> operator
            if not task.per_symbol and any(self.workflow.tasks[other].per_symbol for other in task.needs):
                joins.append(operator)
        last = [start, *self.made.values()]
        finish = self._run_task("finish_run", _FINISH)
        if joins:
            from airflow.providers.standard.operators.empty import EmptyOperator

            verdict = EmptyOperator(task_id="all_succeeded", owner=self.workflow.owner)
            last >> verdict
            last.append(verdict)
        for join in joins:
            join.trigger_rule = TriggerRule.ALL_DONE
        last >> finish
        finish.as_teardown()

    def _run_task(self, task_id: str, path: str, **arguments: Any) -> BaseOperator:
        execution = self.workflow.config["defaults"]
        operator: BaseOperator = load_object(path)(
            task_id=task_id, strategy=self.workflow.id, **arguments, **self._execution(execution, timeout=True, pool="")
        )
        return operator

    def _task(self, task: TaskConfig, **extra: Any) -> None:
        try:
            task_type = self.registry.task_types[task.type]
        except KeyError:
            raise PackageError(
                f"task {task.id!r} of {self.workflow.id!r} is of type {task.type!r}, which is not installed here.",
                remedy="Install the strategy package that offers it on this machine, as on the DAG processor's.",
            ) from None
        operator = load_object(task_type.operator)
        # A sensor waits as long as its own `timeout` says; a default for work must not cut that short.
        timeout = "execution_timeout_seconds" in task.own_execution or not _is_sensor(operator)
        pool = pool_name(self.workflow.connection) if "ibkr_conn_id" in task_type.takes else ""
        arguments = {
            **self._values(task_type),
            **self._inputs(task, task_type),
            **task.parameters,
            **extra,
            **self._execution(task.execution, timeout=timeout, pool=pool),
        }
        try:
            self.made[task.id] = operator(task_id=task.id, **arguments)
        except TypeError as error:
            raise PackageError(
                f"task {task.id!r}: {task_type.operator} cannot be made: {error}",
                remedy=f"The parameter schema of task type {task.type!r} and its operator must agree.",
            ) from error

    def _values(self, task_type: TaskType) -> dict[str, Any]:
        workflow = self.workflow
        values = {
            "strategy": workflow.id,
            "ibkr_conn_id": workflow.connection,
            "symbols": list(workflow.symbols),
            "calendar": workflow.calendar,
            "mode": workflow.mode,
            "risk": workflow.risk,
        }
        return {name: values[name] for name in task_type.takes}

    def _inputs(self, task: TaskConfig, task_type: TaskType) -> dict[str, str]:
        """Ids, as Airflow knows them, of the tasks that this one builds on. Named parameters override the nearest."""
        found = {}
        for argument, kind in task_type.inputs.items():
            name = task.parameters.get(argument) or input_candidates(task.id, kind, self.needs, self.types)[0]
            found[argument] = f"{GROUP}.{name}" if self.workflow.tasks[name].per_symbol else name
        return found

    def _execution(self, execution: Mapping[str, Any], *, timeout: bool, pool: str) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "owner": self.workflow.owner,
            "retries": execution["retries"],
            "retry_delay": timedelta(seconds=execution["retry_delay_seconds"]),
            "retry_exponential_backoff": 2.0 if execution["exponential_backoff"] else 0,
            "max_retry_delay": timedelta(seconds=execution["max_retry_delay_seconds"]),
            "retry_policy": self.policy,
        }
        if timeout:
            arguments["execution_timeout"] = timedelta(seconds=execution["execution_timeout_seconds"])
        if chosen := execution["pool"] or pool:
            arguments["pool"] = chosen
        if execution["queue"]:
            arguments["queue"] = execution["queue"]
        return arguments


def _is_sensor(operator: Any) -> bool:
    return isinstance(operator, type) and issubclass(operator, BaseSensorOperator)


def load_object(path: str) -> Callable[..., Any]:
    """Import `package.module:name`.

    :raises PackageError: there is no such module or name.
    """
    from importlib import import_module

    module, _, name = path.partition(":")
    try:
        found: Callable[..., Any] = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise PackageError(
            f"{path} cannot be imported: {error}", remedy="Install the package that offers it, or mend its task type."
        ) from error
    return found
