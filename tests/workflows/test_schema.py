"""The published schema: itself valid, and knowing every name that is installed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from airflow_ibkr_plugin.hookspecs import TaskType
from airflow_ibkr_plugin.registry import Registry
from airflow_ibkr_plugin.workflows.schema import compose


@pytest.fixture(scope="module")
def schema(registry: Registry) -> dict[str, Any]:
    return compose(registry)


def workflow(**parameters: Any) -> dict[str, Any]:
    return {"id": "w", "symbols": ["SPY"], "tasks": {"s": {"type": "signal", "parameters": parameters}}}


def test_it_is_a_schema_with_none_of_our_own_keywords_left(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)
    assert "ibkr:" not in repr(schema)


@pytest.mark.parametrize(
    ("parameters", "fits"),
    [
        ({"analyst": "rules", "prompt": "trend_following"}, True),
        ({"analyst": "rules", "prompt": "trend_following", "analyst_parameters": {"fast": 5}}, True),
        ({"analyst": "rules", "prompt": "trend_following", "analyst_parameters": {"max_tokens": 5}}, False),
        ({"analyst": "llm", "prompt": "trend_following", "analyst_parameters": {"max_tokens": 5}}, True),
        ({"analyst": "nobody", "prompt": "trend_following"}, False),
        ({"analyst": "rules", "prompt": "nothing"}, False),
        ({"analyst": "rules"}, False),
        ({"analyst": "rules", "prompt": "trend_following", "chart_task": "c"}, True),
    ],
)
def test_a_signal_knows_analysts_prompts_and_the_analysts_own_parameters(
    schema: dict[str, Any], parameters: dict[str, Any], fits: bool
) -> None:
    assert Draft202012Validator(schema).is_valid(workflow(**parameters)) is fits


def test_required_parameters_make_parameters_required(schema: dict[str, Any]) -> None:
    without = {"id": "w", "tasks": {"s": {"type": "signal"}, "p": {"type": "portfolio"}}}
    (error,) = Draft202012Validator(schema).iter_errors(without)
    assert (list(error.absolute_path), error.validator) == (["tasks", "s"], "required")


def test_names_are_known_inside_lists(registry: Registry) -> None:
    prompts = {"type": "array", "items": {"ibkr:names": "prompts"}}
    several = TaskType(
        name="several", operator="x:Y", parameters={"type": "object", "properties": {"prompts": prompts}}
    )
    schema = compose(replace(registry, task_types={**registry.task_types, "several": several}))
    for name, fits in (("trend_following", True), ("nothing", False)):
        tasks = {"s": {"type": "several", "parameters": {"prompts": [name]}}}
        assert Draft202012Validator(schema).is_valid({"id": "w", "tasks": tasks}) is fits


def test_composing_leaves_the_registry_as_it_is(registry: Registry) -> None:
    """Composing copies: the packages' own schemas stay as they were."""
    compose(registry)
    assert registry.task_types["signal"].parameters["properties"]["prompt"]["ibkr:names"] == "prompts"
