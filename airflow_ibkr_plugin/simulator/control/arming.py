"""Commands that arm faults: each waits for what it is for, and is used up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.simulator.control.faults import Armed
from airflow_ibkr_plugin.simulator.control.fields import Answer, Command, Field, choice, flag, integer, number, some_of
from airflow_ibkr_plugin.simulator.control.fields import text as any_text
from airflow_ibkr_plugin.simulator.control.incoming import PACING_CODES
from airflow_ibkr_plugin.simulator.control.order_news import REORDERINGS
from airflow_ibkr_plugin.simulator.link import MAX_SECONDS
from airflow_ibkr_plugin.simulator.wire import tables_data, tables_orders, tables_out
from airflow_ibkr_plugin.simulator.wire.fields import Message
from airflow_ibkr_plugin.simulator.wire.tables_in import REQUESTS
from airflow_ibkr_plugin.simulator.wire.tables_out import END_MESSAGES

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.server import Simulator

_TABLES = [table for tables in (tables_out, tables_data, tables_orders) for table in vars(tables).values()]
#: Whatever the gateway can send, by name.
MESSAGES = sorted(
    {table.name for table in _TABLES if isinstance(table, Message)} - {request.name for request in REQUESTS.values()}
)

_COUNT = Field("count", integer(0, 1_000_000), "how often it happens; 0 takes the fault away", 1)
_CLIENT = Field("client", integer(0), "only to this client id", None)
_ORDER_REF = Field("order_ref", any_text(), "only to orders with this orderRef", None)
_SECONDS = Field("seconds", number(0, MAX_SECONDS), "real seconds")


def _arming(name: str, meaning: str, *details: Field, orders: bool = True, **example: Any) -> Command:
    """A command that arms the fault of its name; `orders`: it can be for some orders only."""
    where = (_CLIENT, _ORDER_REF) if orders else (_CLIENT,)
    names = [field.name for field in details]

    def arm(simulator: Simulator, values: dict[str, Any]) -> Answer:
        fault = Armed(
            name, values["count"], values["client"], values.get("order_ref"), {key: values[key] for key in names}
        )
        simulator.gateway.faults.arm(fault)
        return {"armed": fault.count}

    return Command(name, meaning, example, arm, (*details, _COUNT, *where))


def _mute(simulator: Simulator, values: dict[str, Any]) -> Answer:
    simulator.gateway.faults.muted = set(values["messages"])
    return {"muted": sorted(values["messages"])}


def _disarm(simulator: Simulator, values: dict[str, Any]) -> Answer:
    return {"disarmed": simulator.gateway.faults.disarm(values["fault"])}


ARMING = (
    _arming("drop_before_accept", "the connection is cut before the order is taken; its id is issued again", count=1),
    _arming("drop_after_accept", "the order is taken, the connection cut before it is acknowledged", order_ref="x"),
    _arming("lose_order", "the order is taken off the wire and never heard of; the connection stays", client=1),
    _arming(
        "missing_acknowledgement",
        "the order lives, but no openOrder or orderStatus of it is sent until a client asks for orders",
        count=1,
    ),
    _arming("duplicate_status", "an openOrder and orderStatus are sent twice", count=3),
    _arming(
        "reorder",
        "an order's news comes in the wrong order: all its statuses after its fill, its statuses backwards once it"
        " has ended, or a fill's commission before its execution",
        Field("how", choice(*REORDERINGS), "what comes first"),
        how="fill_before_status",
    ),
    _arming(
        "second_perm_id",
        "the order's first news has one permId, everything of it that follows another",
        order_ref="x",
    ),
    _arming("unnamed_fill", "a fill's execDetails has no orderRef, also when it is asked for", count=1),
    _arming(
        "roll_back_ids",
        "nextValidId is lower than it should be",
        Field("by", integer(1), "by how much; it is never below 1"),
        orders=False,
        by=5,
    ),
    _arming(
        "delay",
        "messages are sent later",
        Field("messages", some_of(MESSAGES), "their names"),
        _SECONDS,
        Field("keep_order", flag(), "what follows waits as well", True),
        orders=False,
        messages=["orderStatus"],
        seconds=0.5,
        count=10,
    ),
    _arming(
        "pacing",
        "history requests are refused for their pace",
        Field("code", choice(*PACING_CODES), "the error", PACING_CODES[0]),
        orders=False,
        count=3,
    ),
    _arming(
        "message_rate",
        "the next message is one too many: error 100, and the end",
        orders=False,
        client=1,
    ),
    _arming(
        "keep_client_id",
        "the id of a connection that ends stays in use (326) for a while",
        _SECONDS,
        orders=False,
        client=1,
        seconds=30,
    ),
    Command(
        "mute",
        "End messages that are not sent, instead of those named before",
        {"messages": ["execDetailsEnd"]},
        _mute,
        (Field("messages", some_of(END_MESSAGES), "their names; [] ends it"),),
    ),
)

DISARM = Command(
    "disarm",
    "take armed faults away",
    {"fault": "delay"},
    _disarm,
    (Field("fault", choice(*(command.name for command in ARMING)), "only this one; left out: all", None),),
)
