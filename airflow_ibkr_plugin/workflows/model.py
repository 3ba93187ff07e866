"""A workflow as the rest of the package sees it: frozen, complete, with a hash that names its configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from airflow_ibkr_plugin.trading.instruments import InstrumentSpec

#: Every strategy's DAG has this tag; the pages find strategies by it.
TAG = "ibkr"

# What a file may leave out. Retries double from 10 s to at most 5 min.
CORE_DEFAULTS: dict[str, Any] = {
    "description": "",
    "owner": "trading",
    "tags": [],
    "schedule": None,
    "time_zone": "UTC",
    "calendar": "",
    "connection": "ibkr_default",
    "mode": "paper",
    "symbols": [],
    "risk": {},
}
EXECUTION_DEFAULTS: dict[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": 10,
    "exponential_backoff": True,
    "max_retry_delay_seconds": 300,
    "execution_timeout_seconds": 900,
    "pool": "",
    "queue": "",
}


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """One task.

    :param per_symbol: it runs once for each symbol.
    :param execution: how it runs: the workflow's defaults with what the task itself says laid over them.
    :param own_execution: only what the task itself says.
    """

    id: str
    type: str
    needs: tuple[str, ...]
    per_symbol: bool
    parameters: Mapping[str, Any]
    execution: Mapping[str, Any]
    own_execution: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Workflow:
    """One strategy: what one DAG is built from.

    :param config: the effective configuration with all core defaults filled in, plain JSON types.
    :param symbols: each a name, or a mapping where the name is not enough.
    :param start_date: a day in `time_zone`; None: scheduled from when Airflow first sees it.
    """

    id: str
    description: str
    owner: str
    tags: tuple[str, ...]
    schedule: str | None
    time_zone: str
    start_date: date | None
    calendar: str
    connection: str
    mode: str
    package: str
    symbols: tuple[str | Mapping[str, Any], ...]
    tasks: Mapping[str, TaskConfig]
    risk: Mapping[str, Mapping[str, Any]]
    config: Mapping[str, Any]

    @property
    def config_hash(self) -> str:
        """SHA-256 of the effective configuration in canonical form, hexadecimal."""
        return hashlib.sha256(canonical(self.config).encode()).hexdigest()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Workflow:
        """Build from a configuration that was checked (see :mod:`.checks`); defaults are filled in.

        :raises KeyError, TypeError, ValueError: it was not.
        """
        full = complete(config)
        defaults = full["defaults"]
        tasks = {}
        for name, task in full["tasks"].items():
            own = {field: task[field] for field in EXECUTION_DEFAULTS if field in task}
            tasks[name] = TaskConfig(
                id=name,
                type=task["type"],
                needs=tuple(task.get("needs", ())),
                per_symbol=task.get("for_each") == "symbol",
                parameters=task.get("parameters", {}),
                execution={**defaults, **own},
                own_execution=own,
            )
        return cls(
            id=full["id"],
            description=full["description"],
            owner=full["owner"],
            tags=tuple(full["tags"]),
            schedule=full["schedule"],
            time_zone=full["time_zone"],
            start_date=date.fromisoformat(full["start_date"]) if "start_date" in full else None,
            calendar=full["calendar"],
            connection=full["connection"],
            mode=full["mode"],
            package=full.get("package", ""),
            symbols=tuple(full["symbols"]),
            tasks=tasks,
            risk=full["risk"],
            config=full,
        )


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with every core default filled in."""
    full = {**CORE_DEFAULTS, **config, "defaults": {**EXECUTION_DEFAULTS, **config.get("defaults", {})}}
    full.pop("$schema", None)
    return full


def canonical(config: Mapping[str, Any]) -> str:
    """The one JSON text of a configuration: sorted keys, no spaces, ASCII. What is hashed and what stubs carry."""
    return json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def symbol_name(symbol: str | Mapping[str, Any]) -> str:
    """`SPY`, `EUR.USD`: what people call the instrument."""
    return InstrumentSpec.parse(symbol).name
