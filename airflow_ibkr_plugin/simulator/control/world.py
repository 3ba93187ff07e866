"""Commands that look at the gateway or do something to it at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.simulator.clock import MAX_SPEED
from airflow_ibkr_plugin.simulator.control.fields import (
    Answer,
    Command,
    Field,
    choice,
    flag,
    instant,
    integer,
    number,
    text,
)
from airflow_ibkr_plugin.simulator.control.order_commands import CLIENT, connected
from airflow_ibkr_plugin.simulator.link import MAX_SECONDS, Farm, FarmState, Login
from airflow_ibkr_plugin.simulator.wire.versions import HIGHEST

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.server import Simulator

# Enough for any calendar; a longer jump would walk working orders through decades of sessions.
_MAX_ADVANCE = 366 * 24 * 3600.0

_LOST = ("lost", "restored", "restored_data_lost")


def _status(simulator: Simulator, values: dict[str, Any]) -> Answer:
    gateway = simulator.gateway
    return {
        "server_version": HIGHEST,
        "accounts": list(gateway.accounts),
        "clients": simulator.clients.ids,
        "clock": _clock_state(simulator),
        "orders": len(gateway.book),
        "working_orders": len(gateway.book.working()),
        "executions": gateway.book.execution_count,
        "login": gateway.link.login.value,
        "online": gateway.link.online,
        "farms": {farm.value: state.value for farm, state in gateway.link.farms.items()},
        "faults": [fault.state() for fault in gateway.faults.armed],
        "muted": sorted(gateway.faults.muted),
    }


def _clock(simulator: Simulator, values: dict[str, Any]) -> Answer:
    clock, last = simulator.gateway.clock, simulator.gateway.book.last_time
    # First, so that set and freeze in one command stand exactly there.
    if values["freeze"] is not None:
        (clock.freeze if values["freeze"] else clock.resume)()
    if values["speed"] is not None:
        clock.run_at(values["speed"])
    if values["set"] is not None:
        if values["set"].timestamp() < last:
            raise ConfigError(
                f"clock: set is {values['set'].isoformat()}, before the last event in the books.",
                remedy="Set a later time.",
            )
        clock.set(values["set"])
    if values["advance"] is not None:
        clock.advance(values["advance"])
    if any(value is not None for value in values.values()):
        simulator.gateway.save_clock()
        simulator.desk.step()
    return _clock_state(simulator)


def _clock_state(simulator: Simulator) -> Answer:
    clock = simulator.gateway.clock
    return {
        "now": clock.now().isoformat(),
        "simulated": clock.simulated,
        "frozen": clock.frozen,
        "speed": clock.speed,
    }


def _drop(simulator: Simulator, values: dict[str, Any]) -> Answer:
    if values["client"] is None:
        return {"dropped": simulator.clients.drop("control: drop")}
    connected(simulator, values["client"]).close("control: drop")
    return {"dropped": 1}


def _error(simulator: Simulator, values: dict[str, Any]) -> Answer:
    connected(simulator, values["client"]).error(values["id"], values["code"], values["message"])
    return {}


def _connectivity(simulator: Simulator, values: dict[str, Any]) -> Answer:
    if values["state"] == "lost":
        simulator.lose_servers()
    else:
        simulator.restore_servers(data_lost=values["state"] == "restored_data_lost")
    return {"online": simulator.gateway.link.online}


def _farm(simulator: Simulator, values: dict[str, Any]) -> Answer:
    try:
        simulator.tell_all([simulator.gateway.link.set_farm(values["farm"], values["state"])])
    except ValueError as error:
        raise ConfigError(f"farm: {error}.") from None
    return {values["farm"].value: values["state"].value}


async def _logout(simulator: Simulator, values: dict[str, Any]) -> Answer:
    await simulator.entrance.log_out(values["mode"])
    return {"login": values["mode"].value}


async def _login(simulator: Simulator, values: dict[str, Any]) -> Answer:
    await simulator.entrance.log_in()
    return {"login": Login.VALID.value}


async def _restart(simulator: Simulator, values: dict[str, Any]) -> Answer:
    await simulator.entrance.restart(values["seconds"], second_factor=values["second_factor"])
    return {"login": simulator.gateway.link.login.value}


WORLD = (
    Command("status", "version, account, clients, clock, counts, link to IBKR, armed faults", {}, _status),
    Command(
        "clock",
        "the clock, after it was changed as asked",
        {"set": "2026-11-20T16:00:00Z", "freeze": True},
        _clock,
        (
            Field("set", instant(), "jump there; not before the last event in the books", None),
            Field("advance", number(0, _MAX_ADVANCE), "jump ahead by seconds; orders meet the market on the way", None),
            Field("freeze", flag(), "stand still, or go on", None),
            Field("speed", number(0.001, MAX_SPEED), "simulated seconds in a real one", None),
        ),
    ),
    Command(
        "drop",
        "cut connections off",
        {"client": 1},
        _drop,
        (Field("client", integer(0), "only this client's; left out: all", None),),
    ),
    Command(
        "error",
        "any error or notice to any request or order id",
        {"client": 1, "id": -1, "code": 2103, "message": "Market data farm connection is broken:simfarm"},
        _error,
        (
            CLIENT,
            Field("id", integer(-1), "request or order id, -1 for none"),
            Field("code", integer(0), "the error code"),
            Field("message", text(), "its text", "sent by control"),
        ),
    ),
    Command(
        "connectivity",
        "lost: 1100 and broken farms, until restored: 1102, or 1101, after which quotes must be asked for again",
        {"state": "lost"},
        _connectivity,
        (Field("state", choice(*_LOST), "what happens"),),
    ),
    Command(
        "farm",
        "a data farm's connection changes, and clients are told (2103 to 2108, 2119, 2157, 2158)",
        {"farm": "market", "state": "broken"},
        _farm,
        (
            Field("farm", choice(*Farm), "which one"),
            Field("state", choice(*FarmState), "how it stands now"),
        ),
    ),
    Command(
        "logout",
        "the session with IBKR is lost: 1100, and connections are dropped",
        {"mode": "close"},
        _logout,
        (
            Field(
                "mode",
                choice(Login.CLOSE, Login.REFUSE, Login.SECOND_FACTOR),
                "close: the port hangs up after the handshake; refuse: nothing listens; second_factor: nothing listens"
                " and IBC does not help",
                Login.CLOSE,
            ),
        ),
    ),
    Command("login", "a person logs in: the session is valid again", {}, _login),
    Command(
        "restart",
        "the nightly restart: connections drop, the port is closed for a while; orders stay",
        {"seconds": 5},
        _restart,
        (
            Field("seconds", number(0, MAX_SECONDS), "real seconds until the port is open again", 0.0),
            Field("second_factor", flag(), "the login after it waits for a person, as once a week", False),
        ),
    ),
)
