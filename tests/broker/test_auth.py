"""Log-ins that fail and come back."""

import logging
import threading
from dataclasses import replace

import pytest

from airflow_ibkr_plugin.broker.auth import check_session, reauthenticate
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.errors import ClientIdInUse, ConfigError, SessionInvalid
from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle


def test_a_session_that_stands(spec: GatewaySpec) -> None:
    status = check_session(spec)

    assert status.valid
    assert not status.needs_human
    assert "DU1234567" in status.detail
    assert "2026-03-10T15:" in status.detail
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ibkr-")]


def test_a_check_passes_over_ids_in_use_and_says_when_there_is_none(spec: GatewaySpec) -> None:
    with BrokerSession.open(spec, client_id=19):
        assert check_session(spec).valid
        with pytest.raises(ClientIdInUse):
            check_session(replace(spec, client_ids=range(19, 20)))


def test_a_check_begins_at_the_other_end_than_leases_do(spec: GatewaySpec, caplog: pytest.LogCaptureFixture) -> None:
    with BrokerSession.open(spec, client_id=10), caplog.at_level(logging.INFO, "airflow_ibkr_plugin.broker.auth"):
        assert check_session(spec).valid
    assert not [record for record in caplog.records if record.name == "airflow_ibkr_plugin.broker.auth"]


def test_an_account_that_is_not_managed_is_a_mistake(spec: GatewaySpec) -> None:
    with pytest.raises(ConfigError, match="DU7654321"):
        check_session(replace(spec, account="DU7654321"))


def test_a_logged_out_gateway(own_simulator: SimulatorHandle, own_spec: GatewaySpec) -> None:
    own_simulator.control("logout")

    with pytest.raises(SessionInvalid):
        BrokerSession.open(own_spec, client_id=10)
    status = check_session(own_spec)
    assert not status.valid
    assert not status.needs_human


@pytest.mark.parametrize("mode", ["close", "refuse"])
def test_ibc_logs_in_again(
    own_simulator: SimulatorHandle, own_spec: GatewaySpec, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    own_simulator.control("logout", mode=mode)

    with caplog.at_level(logging.INFO, "airflow_ibkr_plugin.broker.auth"):
        status = reauthenticate(own_spec)

    assert status.valid
    steps = [record.getMessage() for record in caplog.records if record.name == "airflow_ibkr_plugin.broker.auth"]
    assert "step 1, reconnect" in steps[0]
    assert "RECONNECTACCOUNT" in steps[1]
    with BrokerSession.open(own_spec, client_id=10) as session:
        assert session.now()


def test_a_session_that_came_back_by_itself_needs_no_command(
    own_simulator: SimulatorHandle, own_spec: GatewaySpec
) -> None:
    own_simulator.control("logout")
    own_simulator.control("login")
    assert reauthenticate(replace(own_spec, ibc_port=None)).valid


@pytest.mark.parametrize("with_ibc", [False, True])
def test_what_no_command_mends_needs_a_human(
    own_simulator: SimulatorHandle, own_spec: GatewaySpec, with_ibc: bool
) -> None:
    own_simulator.stop()
    status = reauthenticate(own_spec if with_ibc else replace(own_spec, ibc_port=None))

    assert not status.valid
    assert status.needs_human
    assert "a person" in status.detail
    assert "most likely" not in status.detail  # IBC is gone too


def test_a_second_factor_that_nobody_has_confirmed_needs_a_human(
    own_simulator: SimulatorHandle, own_spec: GatewaySpec
) -> None:
    own_simulator.control("logout", mode="second_factor")

    status = reauthenticate(replace(own_spec, timeout=0.5), reconnect_seconds=0.5, restart_seconds=0.5)

    assert not status.valid
    assert not status.listening
    assert status.needs_human
    assert "most likely waits at its login window for a second factor" in status.detail
    own_simulator.control("login")  # the person
    assert check_session(own_spec).valid
