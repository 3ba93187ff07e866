"""The hooks that strategy packages implement: one function a hook. Core features use the same ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pluggy

from airflow_ibkr_plugin.errors import PackageError
from airflow_ibkr_plugin.trading.analysts import AnalystType, Prompt
from airflow_ibkr_plugin.trading.risk import RiskRule

PROJECT = "airflow_ibkr_plugin"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

# Values of the workflow that an operator can be given by name.
WORKFLOW_VALUES = frozenset({"strategy", "ibkr_conn_id", "symbols", "calendar", "mode", "risk"})


@dataclass(frozen=True, kw_only=True)
class TaskType:
    """What `type:` of a workflow's task may name.

    :param operator: `package.module:Class` of an Airflow operator or sensor, imported when a DAG is built.
    :param parameters: JSON Schema (2020-12) of the task's parameters, an object schema.
    :param per_symbol: the task runs once for each symbol inside the mapped group, where it says `for_each: symbol`;
        the operator is given `symbol`.
    :param takes: values of the workflow that the operator is given, out of :data:`WORKFLOW_VALUES`. What takes
        `ibkr_conn_id` talks to the broker, and runs in the pool of that connection.
    :param inputs: constructor argument -> name of a task type: the argument is given the id of the task of that type
        which this one builds on (the nearest in `needs`, unless the workflow names it).
    """

    name: str
    operator: str
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "additionalProperties": False})
    per_symbol: bool = False
    takes: tuple[str, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    description: str = ""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.takes) - WORKFLOW_VALUES):
            raise PackageError(
                f"task type {self.name!r} takes {', '.join(unknown)}, which workflows do not have.",
                remedy=f"Choose from: {', '.join(sorted(WORKFLOW_VALUES))}.",
            )


@hookspec
def ibkr_prompts() -> Iterable[Prompt]:
    """Signal prompts that workflows may name."""
    raise NotImplementedError


@hookspec
def ibkr_risk_rules() -> Iterable[RiskRule]:
    """Risk rules that workflows may name."""
    raise NotImplementedError


@hookspec
def ibkr_task_types() -> Iterable[TaskType]:
    """Operators and sensors that workflows may name as task types."""
    raise NotImplementedError


@hookspec
def ibkr_analysts() -> Iterable[AnalystType]:
    """Analysts that turn a chart into a signal."""
    raise NotImplementedError
