"""Which server version a client gets, and that one without a common version is told so in the log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ibkr_plugin.simulator.wire.versions import HIGHEST, LOWEST, negotiated


@pytest.mark.parametrize(
    ("offered", "version"),
    [
        ("v157..176", 176),  # ib_insync
        ("v157..178", 176),  # ib_async
        ("v100..157", 157),  # ibapi 9.81.1
        ("v100..225", 176),  # ibapi 10.46.1
        ("v100..193", 176),  # @stoqey/ib
        ("v100..158", 157),
        ("v159..159", 159),
    ],
)
def test_a_client_gets_the_highest_version_that_both_speak(
    simulator: Any, raw: Callable[..., Any], offered: str, version: int
) -> None:
    assert raw(simulator, versions=offered).hello[0] == str(version)


@pytest.mark.parametrize("offered", ["v158..158", "v158", "v177..225", "v100..156", "v176..157"])
def test_a_client_without_a_common_version_is_refused(
    simulator: Any, raw: Callable[..., Any], caplog: pytest.LogCaptureFixture, offered: str
) -> None:
    caplog.set_level(logging.INFO, logger="airflow_ibkr_plugin.simulator")
    assert raw(simulator, versions=offered).hello == []
    assert "no common version" in caplog.text


@given(st.integers(0, 300), st.integers(0, 300))
def test_the_version_is_one_that_both_speak_and_never_158(lowest: int, highest: int) -> None:
    version = negotiated(lowest, highest)
    shared = set(range(max(lowest, LOWEST), min(highest, HIGHEST) + 1)) - {158}
    assert version == (max(shared) if shared else None)
