"""A person closes what a bracket brought: its exits go first, and what is left gets a new stop."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.errors import BrokerError, ConfigError
from airflow_ibkr_plugin.execution import halt as halt_module
from airflow_ibkr_plugin.execution.again import raise_generation
from airflow_ibkr_plugin.execution.close import begin_close
from airflow_ibkr_plugin.execution.declare import Declared, declare
from airflow_ibkr_plugin.execution.flatten import flatten
from airflow_ibkr_plugin.execution.halt import enforce


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halt_module, "SETTLE_SECONDS", 0.3)


def close(floor: Any, command_id: str, quantity: int | None = None) -> None:
    units = None if quantity is None else Decimal(quantity)
    begin_close(floor.database, command_id, "demo", symbol="KO", quantity=units, by="anna@desk")
    assert enforce(floor.database, command_id, gateway_of=lambda _: floor.spec, owner="e").verified
    assert floor.working() == {}
    assert flatten(floor.database, command_id, gateway_of=lambda _: floor.spec, owner="f").left == ()


def test_all_of_it_is_closed_and_nothing_of_it_works_any_more(floor: Any) -> None:
    floor.bracket()
    assert floor.working().keys() == {"stop", "target"}
    close(floor, "c1")
    floor.bracket()  # a clear: it finds the bracket over
    assert (floor.held(), floor.working()) == (0, {})
    assert floor.alerts() == []


def test_what_is_left_of_it_gets_a_new_stop(floor: Any) -> None:
    floor.bracket()
    close(floor, "c1", 4)
    assert (floor.held(), floor.working()) == (6, {})
    floor.bracket()  # as the service does
    assert floor.held() == 6
    assert list(floor.working().values()) == [("6", "STP")]


def test_it_is_traded_again_only_when_nothing_of_it_is_held(floor: Any) -> None:
    floor.bracket()
    key = {"dag_id": "demo", "run_id": "run-1", "task_id": "order", "by": "anna@desk", "reason": "drill"}
    with pytest.raises(ConfigError, match=r"bracket of Order .* is open.*airflow ibkr close --strategy demo"):
        raise_generation(floor.database, **key)
    close(floor, "c1")
    floor.bracket()
    assert raise_generation(floor.database, **key).generation == 1


def test_a_bracket_that_was_never_sent_is_settled_as_one_unit(floor: Any) -> None:
    floor.gateway.control("drop_before_accept")
    with pytest.raises(BrokerError):
        floor.bracket()
    assert set(floor.states().values()) <= {"ambiguous", "sending"}
    ref = floor.legs()["entry"].order_ref
    given = {"by": "anna@desk", "reason": "looked in TWS", "gateway_of": lambda _: floor.spec}
    declare(floor.database, ref, Declared.NEVER_SENT, **given)
    assert floor.states() == dict.fromkeys(("entry", "stop", "target"), "abandoned")


def test_a_bracket_of_which_the_broker_knows_a_leg_is_not(floor: Any) -> None:
    with floor.session() as session:  # what is sent last sends the others
        key = floor.request(session).key
    floor.gateway.control("drop_after_accept", order_ref=replace(key, leg="stop").order_ref)
    with pytest.raises(BrokerError):
        floor.bracket()
    before = floor.states()
    given = {"by": "anna@desk", "reason": "looked in TWS", "gateway_of": lambda _: floor.spec}
    with pytest.raises(ConfigError, match="The broker knows order"):
        declare(floor.database, floor.legs()["entry"].order_ref, Declared.NEVER_SENT, **given)
    assert floor.states() == before
