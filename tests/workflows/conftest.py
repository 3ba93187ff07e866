"""What the tests of workflows share: a registry that needs nothing installed, and a small workflow to damage."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_ibkr_plugin import builtin
from airflow_ibkr_plugin.hookspecs import TaskType
from airflow_ibkr_plugin.registry import Package, Registry
from airflow_ibkr_plugin.workflows.checks import Checker

OPERATORS = '''
"""Operators that record that they ran, and fail on demand. Written to a module so that stubs can import them."""
from airflow.sdk import BaseOperator

class Recorder(BaseOperator):
    template_fields = ("symbol",)

    def __init__(self, *, strategy, symbol=None, source_task=None, fail_for="", **kwargs):
        super().__init__(**kwargs)
        self.symbol, self.source_task, self.fail_for = symbol, source_task, fail_for

    def execute(self, context):
        if self.symbol is not None and self.symbol == self.fail_for:
            raise RuntimeError(f"no data for {self.symbol}")
        got = None
        if self.source_task:
            got = context["ti"].xcom_pull(task_ids=self.source_task, map_indexes=context["ti"].map_index)
        return {"symbol": self.symbol, "got": got and got["symbol"]}

class Run(BaseOperator):
    def __init__(self, *, strategy, config=None, config_hash="", **kwargs):
        super().__init__(**kwargs)
        self.config_hash = config_hash

    def execute(self, context):
        return self.config_hash
'''


@pytest.fixture(scope="session")
def registry() -> Registry:
    """All that is built in, a package that failed to load, and task types of the tests' own."""
    fetch = TaskType(
        name="fetch",
        operator="workflow_test_operators:Recorder",
        parameters={"type": "object", "properties": {"fail_for": {"type": "string"}}, "additionalProperties": False},
        per_symbol=True,
        takes=("strategy",),
    )
    act = TaskType(
        name="act",
        operator="workflow_test_operators:Recorder",
        per_symbol=True,
        takes=("strategy",),
        inputs={"source_task": "fetch"},
    )
    report = TaskType(
        name="report",
        operator="workflow_test_operators:Recorder",
        parameters={"type": "object"},  # takes whatever it is given
        takes=("strategy",),
    )
    return Registry(
        prompts={prompt.name: prompt for prompt in builtin.ibkr_prompts()},
        risk_rules={rule.name: rule for rule in builtin.ibkr_risk_rules()},
        task_types={kind.name: kind for kind in (*builtin.ibkr_task_types(), fetch, act, report)},
        analysts={analyst.name: analyst for analyst in builtin.ibkr_analysts()},
        packages=(
            Package(name="builtin", distribution="airflow-ibkr-plugin", version="1"),
            Package(name="momentum", distribution="m", version="1", error="ImportError: no module named talib"),
        ),
    )


@pytest.fixture(scope="session")
def checker(registry: Registry) -> Checker:
    return Checker(registry)


@pytest.fixture
def operators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the module with the test operators importable, and use them for the run's first and last task."""
    folder = tmp_path / "operators"
    folder.mkdir()
    (folder / "workflow_test_operators.py").write_text(OPERATORS)
    monkeypatch.syspath_prepend(str(folder))
    from airflow_ibkr_plugin.workflows import builder

    monkeypatch.setattr(builder, "_START", "workflow_test_operators:Run")
    monkeypatch.setattr(builder, "_FINISH", "workflow_test_operators:Run")
