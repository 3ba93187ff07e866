"""Packages are found by entry point; one that is broken, blocked or greedy is off, and harms no other."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.registry import ENTRY_POINT_GROUP, build_registry

BUILTIN = EntryPoint("builtin", "airflow_ibkr_plugin.builtin", ENTRY_POINT_GROUP)
HEAD = """
from airflow_ibkr_plugin.hookspecs import hookimpl
from airflow_ibkr_plugin.trading.analysts import Prompt
"""
PACKAGES = {
    "good": "@hookimpl\ndef ibkr_prompts(): return [Prompt(name='good.1', text=''), Prompt(name='good.2', text='')]",
    "raises": "raise OSError('no licence file')",
    "syntax": "def",
    "exits": "import sys\nsys.modules['nothing'].x",
    "hook_raises": "@hookimpl\ndef ibkr_prompts(): return 1 / 0",
    "wrong_thing": "@hookimpl\ndef ibkr_prompts(): return ['breakout']",
    "unknown_hook": "@hookimpl\ndef ibkr_promts(): return []",
    "greedy": "@hookimpl\ndef ibkr_prompts(): return [Prompt(name='trend_following', text='mine')]",
    "twice": "@hookimpl\ndef ibkr_prompts(): return [Prompt(name='a', text='x'), Prompt(name='a', text='y')]",
    "a_lister": "@hookimpl\ndef ibkr_prompts(): return [Prompt(name='a_lister.p', text='x')]",
}
REASONS = {
    "raises": "OSError: no licence file",
    "syntax": "SyntaxError",
    "exits": "KeyError: 'nothing'",
    "hook_raises": "ZeroDivisionError",
    "wrong_thing": "ibkr_prompts returned 'breakout', not a Prompt",
    "unknown_hook": "unknown hook 'ibkr_promts'",
    "greedy": "already offered by package 'builtin'",
    "twice": "already offered by package 'twice'",
}


@pytest.fixture
def points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, EntryPoint]:
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, code in PACKAGES.items():
        (tmp_path / f"ibkr_registry_test_{name}.py").write_text(f"{HEAD}{code}\n")
    return {name: EntryPoint(name, f"ibkr_registry_test_{name}", ENTRY_POINT_GROUP) for name in PACKAGES}


def test_what_is_built_in_comes_by_its_entry_point_like_any_package() -> None:
    registry = build_registry([BUILTIN])
    assert registry.task_type("order").per_symbol
    assert registry.risk_rule("order_notional").name == "order_notional"
    assert registry.analyst("rules").is_llm is False
    assert registry.owners["prompts", "trend_following"] == "builtin"
    assert build_registry([]).task_types == {}


@pytest.mark.parametrize("name", REASONS)
def test_a_bad_package_is_off_with_its_reason_and_the_others_are_on(name: str, points: dict[str, EntryPoint]) -> None:
    registry = build_registry([points[name], points["good"], BUILTIN])
    errors = {package.name: package.error for package in registry.packages}
    assert REASONS[name] in errors[name]
    assert errors["good"] == errors["builtin"] == ""
    assert {"good.1", "good.2", "trend_following"} <= set(registry.prompts)
    assert registry.prompts["trend_following"].text != "mine"
    assert "a" not in registry.prompts


def test_built_in_names_win_whatever_the_order_of_names(points: dict[str, EntryPoint]) -> None:
    """`a_lister` sorts before `builtin`; what is built in is loaded first all the same."""
    registry = build_registry([points["a_lister"], BUILTIN])
    assert [package.name for package in registry.packages] == ["builtin", "a_lister"]


def test_a_blocked_package_is_not_even_imported(points: dict[str, EntryPoint]) -> None:
    registry = build_registry([points["raises"], points["good"]], blocked=["raises"])
    errors = {package.name: package.error for package in registry.packages}
    assert errors == {"raises": "blocked by [ibkr] packages_blocked", "good": ""}


@pytest.mark.parametrize("kind", ["prompt", "risk_rule", "task_type", "analyst"])
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(kind: str) -> None:
    with pytest.raises(ConfigError, match=r"is named 'nope'\. Known: "):
        getattr(build_registry([BUILTIN]), kind)("nope")
