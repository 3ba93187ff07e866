"""The JSON Schema (2020-12) of a workflow file, composed of the core and of what the loaded packages offer.

Task types, risk rules and analysts each bring the schema of their own parameters. Inside such a schema two keywords
of ours are filled in here, so that editors and `validate` know the names:

- `"ibkr:names": "prompts" | "analysts" | "risk_rules"` becomes an `enum` of the registered names;
- `"ibkr:parametersOf": {"kind": "analysts", "name": "analyst"}` makes a field hold the parameters of the analyst
  which the neighbouring field `analyst` names.

A parameter schema is an object schema and stands by itself: `$ref` in it is not supported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_ibkr_plugin.registry import Registry
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec, SecType

DIALECT = "https://json-schema.org/draft/2020-12/schema"
# Airflow's own limit for ids is 250 characters; ours leaves room for group prefixes, file names and metric names.
NAME = {"type": "string", "pattern": "^[a-z][a-z0-9_]{0,63}$"}
MAX_TASKS = 200
PRESETS = ("@hourly", "@daily", "@weekly", "@monthly", "@quarterly", "@yearly")
EXECUTION_FIELDS = (
    "retries",
    "retry_delay_seconds",
    "exponential_backoff",
    "max_retry_delay_seconds",
    "execution_timeout_seconds",
    "pool",
    "queue",
)


def compose(registry: Registry) -> dict[str, Any]:
    """The schema of a workflow file for what is installed here."""
    return {
        "$schema": DIALECT,
        "title": "airflow-ibkr-plugin workflow",
        "type": "object",
        "required": ["id", "tasks"],
        "additionalProperties": False,
        "properties": {
            # Editors find the schema by this key; it means nothing to us.
            "$schema": {"type": "string"},
            **_core(registry),
            "tasks": {
                "type": "object",
                "minProperties": 1,
                "maxProperties": MAX_TASKS,
                "propertyNames": NAME,
                "additionalProperties": _task(registry),
                "description": "What runs, by task id.",
            },
            "risk": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    name: {**_filled(rule.parameters, registry), "description": rule.description}
                    for name, rule in sorted(registry.risk_rules.items())
                },
                "description": "Risk rules with their parameters; each order must pass all of them.",
            },
            "strategies": {
                "type": "object",
                "minProperties": 1,
                "propertyNames": NAME,
                "additionalProperties": {
                    "type": "object",
                    "properties": {"id": {"not": {}}, "strategies": {"not": {}}},
                },
                "description": "One DAG for each: a patch (RFC 7396) that is laid over the rest of the file.",
            },
        },
    }


def _core(registry: Registry) -> dict[str, Any]:
    text = {"type": "string", "maxLength": 4000}
    return {
        "id": {**NAME, "description": "Name of the workflow, and of its DAG where it has no `strategies`."},
        "description": text,
        "owner": {"type": "string", "minLength": 1, "maxLength": 200, "description": "Shown as the DAG's owner."},
        "tags": {
            "type": "array",
            "uniqueItems": True,
            "items": {"type": "string", "minLength": 1, "maxLength": 100},
        },
        "schedule": {
            "type": ["string", "null"],
            "description": f"Cron with five fields, one of {', '.join(PRESETS)}, or null: only by hand.",
        },
        "time_zone": {"type": "string", "description": "IANA time zone that `schedule` is read in, such as UTC."},
        "start_date": {
            "type": "string",
            "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$",
            "description": "Nothing is scheduled before this day (midnight in `time_zone`), if it is yet to come.",
        },
        "calendar": {
            "type": "string",
            "description": "Exchange calendar such as XNYS; empty means the hours that IBKR gives for each instrument.",
        },
        "connection": {
            "type": "string",
            "pattern": "^[A-Za-z0-9_.-]{1,100}$",
            "description": "Airflow connection of type ibkr.",
        },
        "mode": {"enum": ["paper", "live"], "description": "Live needs the connection's and [ibkr] allow_live too."},
        "package": {
            "enum": sorted(package.name for package in registry.packages if not package.error),
            "description": "Strategy package that the workflow needs: it is an error if it is not installed.",
        },
        "symbols": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1000,
            "uniqueItems": True,
            "items": _symbol(),
            "description": "`SPY`, `EUR.USD`, or a mapping where a name is not enough.",
        },
        "defaults": {
            "type": "object",
            "additionalProperties": False,
            "properties": _execution(),
            "description": "How tasks run; a task may set any of them for itself.",
        },
    }


def _symbol() -> dict[str, Any]:
    text = {"type": "string", "pattern": r"^[A-Za-z0-9 .\-]{1,32}$"}
    properties: dict[str, Any] = dict.fromkeys(InstrumentSpec.__dataclass_fields__, text)
    properties["sec_type"] = {"enum": [str(kind) for kind in SecType]}
    return {
        "type": ["string", "object"],
        "required": ["symbol"],
        "additionalProperties": False,
        "properties": properties,
    }


def _execution() -> dict[str, Any]:
    seconds = {"type": "number", "exclusiveMinimum": 0, "maximum": 7 * 86400}
    return {
        "retries": {"type": "integer", "minimum": 0, "maximum": 20},
        "retry_delay_seconds": seconds,
        "exponential_backoff": {"type": "boolean", "description": "Whether the delay doubles with each retry."},
        "max_retry_delay_seconds": seconds,
        "execution_timeout_seconds": {
            **seconds,
            "description": "A task that runs longer fails. A default does not apply to sensors, which have `timeout`.",
        },
        "pool": {
            "type": "string",
            "minLength": 1,
            "maxLength": 256,
            "description": "Airflow pool; by default ibkr_<connection> for what talks to the broker.",
        },
        "queue": {"type": "string", "minLength": 1, "maxLength": 256},
    }


def _task(registry: Registry) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["type"],
        "additionalProperties": False,
        "properties": {
            "type": {"enum": sorted(registry.task_types), "description": "What the task does."},
            "needs": {
                "type": "array",
                "uniqueItems": True,
                "items": {"type": "string"},
                "description": "Ids of the tasks that run before this one.",
            },
            "for_each": {"const": "symbol", "description": "Run once for each symbol."},
            "parameters": {"type": "object"},
            **_execution(),
        },
        "allOf": [_typed_task(name, registry) for name in sorted(registry.task_types)],
    }


def _typed_task(name: str, registry: Registry) -> dict[str, Any]:
    """`if` the type is this one, `then` its parameters are these, and required if one of them is."""
    task_type = registry.task_types[name]
    parameters = _filled(task_type.parameters, registry)
    inputs = {
        argument: {**NAME, "description": f"Id of the {kind} task this one builds on; by default the nearest."}
        for argument, kind in task_type.inputs.items()
    }
    parameters["properties"] = {**parameters.get("properties", {}), **inputs}
    then: dict[str, Any] = {"properties": {"parameters": parameters}}
    if parameters.get("required"):
        then["required"] = ["parameters"]
    return {"if": {"properties": {"type": {"const": name}}, "required": ["type"]}, "then": then}


def _filled(schema: Mapping[str, Any], registry: Registry) -> dict[str, Any]:
    """A copy of a parameter schema with our two keywords filled in from the registry."""
    result: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword == "ibkr:names":
            result["enum"] = sorted(getattr(registry, value))
        elif keyword == "properties":
            conditions: list[dict[str, Any]] = []
            result["properties"] = {}
            for name, field in value.items():
                reference = field.get("ibkr:parametersOf")
                if reference:
                    conditions += _parameters_of(name, reference, registry)
                result["properties"][name] = _filled(
                    {k: v for k, v in field.items() if k != "ibkr:parametersOf"}, registry
                )
            if conditions:
                result["allOf"] = [*schema.get("allOf", []), *conditions]
        elif keyword == "items" and isinstance(value, Mapping):
            result["items"] = _filled(value, registry)
        elif keyword not in result:
            result[keyword] = value
    return result


def _parameters_of(field: str, reference: Mapping[str, str], registry: Registry) -> list[dict[str, Any]]:
    conditions = []
    for name, thing in sorted(getattr(registry, reference["kind"]).items()):
        schema = _filled(thing.parameters, registry)
        then: dict[str, Any] = {"properties": {field: schema}}
        if schema.get("required"):
            then["required"] = [field]
        named = {"properties": {reference["name"]: {"const": name}}, "required": [reference["name"]]}
        conditions.append({"if": named, "then": then})
    return conditions
