"""The contract with packages: what a task type may say."""

from __future__ import annotations

import inspect

import pytest
from jsonschema import Draft202012Validator

from airflow_ibkr_plugin import builtin, hookspecs
from airflow_ibkr_plugin.errors import PackageError
from airflow_ibkr_plugin.hookspecs import WORKFLOW_VALUES, TaskType
from airflow_ibkr_plugin.workflows.builder import load_object


def test_a_task_type_cannot_take_what_workflows_do_not_have() -> None:
    with pytest.raises(PackageError, match="takes password, which workflows do not have"):
        TaskType(name="x", operator="a:B", takes=("strategy", "password"))
    assert TaskType(name="x", operator="a:B", takes=tuple(WORKFLOW_VALUES)).per_symbol is False


def test_every_hook_is_implemented_by_what_is_built_in() -> None:
    hooks = [name for name in vars(hookspecs) if name.startswith("ibkr_")]
    assert hooks
    for name in hooks:
        assert list(getattr(builtin, name)()), name


def test_built_in_parameter_schemas_are_object_schemas() -> None:
    things = [*builtin.ibkr_task_types(), *builtin.ibkr_risk_rules(), *builtin.ibkr_analysts()]
    for thing in things:
        Draft202012Validator.check_schema(thing.parameters)
        assert thing.parameters["type"] == "object", thing.name
        assert thing.parameters["additionalProperties"] is False, thing.name


def test_the_parameters_and_inputs_of_built_in_types_are_arguments_of_their_operators() -> None:
    for kind in builtin.ibkr_task_types():
        operator = load_object(kind.operator)
        known: set[str] = set()
        for base in inspect.getmro(operator):
            known |= set(inspect.signature(base.__init__).parameters)
        given = {*kind.parameters.get("properties", {}), *kind.inputs, *kind.takes}
        assert given <= known, f"{kind.name}: {given - known}"
        assert ("symbol" in known) == kind.per_symbol, kind.name
