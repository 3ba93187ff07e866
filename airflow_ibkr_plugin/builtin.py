"""What is built in, offered through the hooks that third parties use. Importing this imports nothing heavy."""

from __future__ import annotations

from typing import Any

from airflow_ibkr_plugin.analysis import catalogue
from airflow_ibkr_plugin.analysis.indicators import list_schema
from airflow_ibkr_plugin.hookspecs import TaskType, hookimpl
from airflow_ibkr_plugin.trading.analysts import AnalystType, Prompt
from airflow_ibkr_plugin.trading.bars import BAR_SIZES
from airflow_ibkr_plugin.trading.brackets import BRACKET_SCHEMA
from airflow_ibkr_plugin.trading.orders import LIMITED, STOPS, OrderType, TimeInForce
from airflow_ibkr_plugin.trading.risk import RiskRule
from airflow_ibkr_plugin.trading.risk_rules import rules
from airflow_ibkr_plugin.trading.sizing import SIZING_SCHEMA

_BROKER = ("strategy", "ibkr_conn_id")
_SECONDS = {"type": "number", "exclusiveMinimum": 0, "maximum": 7 * 86400}
_WAITING = {
    "poke_interval": {**_SECONDS, "default": 60, "description": "Seconds between two looks."},
    "timeout": {**_SECONDS, "default": 14400, "description": "Seconds after which the wait is given up and fails."},
}


def _of_type(*kinds: OrderType) -> dict[str, Any]:
    return {"properties": {"order_type": {"enum": sorted(map(str, kinds))}}, "required": ["order_type"]}


_ORDER_WAIT = {
    "type": "number",
    "minimum": 1,
    "maximum": 3600,
    "default": 60,
    "description": "How long to wait for the fill; what is left then is cancelled, unless `on_timeout` says otherwise.",
}
# A stop order's price comes from the workflow, never from a signal. The rest is `trading.orders.unfit`.
_ORDER_CONDITIONS: list[dict[str, Any]] = [
    {"if": _of_type(OrderType.STOP, OrderType.STOP_LIMIT), "then": {"required": ["stop_offset"]}},
    {
        "if": _of_type(OrderType.TRAIL),
        "then": {"oneOf": [{"required": ["trail_offset"]}, {"required": ["trail_amount"]}]},
        "else": {"properties": {"trail_offset": False, "trail_amount": False}},
    },
    {"if": _of_type(*STOPS), "then": {"properties": {"tif": {"enum": ["DAY", "GTC"]}}}},
    {"if": _of_type(*LIMITED), "else": {"properties": {"outside_rth": {"const": False}, "limit_offset": False}}},
    {"if": _of_type(*STOPS), "else": {"properties": {"stop_offset": False}}},
    {
        "if": {"properties": {"sizing": {"required": ["risk_per_trade"]}}, "required": ["sizing"]},
        "then": {"required": ["bracket"]},
    },
]


def _schema(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "required": list(required),
    }


@hookimpl
def ibkr_prompts() -> list[Prompt]:
    """Built-in prompts."""
    return catalogue.prompts()


@hookimpl
def ibkr_analysts() -> list[AnalystType]:
    """Built-in analysts."""
    return catalogue.analysts()


@hookimpl
def ibkr_risk_rules() -> list[RiskRule]:
    """Built-in risk rules."""
    return rules()


@hookimpl
def ibkr_task_types() -> list[TaskType]:
    """Built-in task types: our operators and sensors."""
    return [*_sensors(), *_per_symbol(), _PORTFOLIO, _RECONCILE]


_PORTFOLIO = TaskType(
    name="portfolio",
    operator="airflow_ibkr_plugin.operators.portfolio:PortfolioOperator",
    takes=_BROKER,
    description="Stores the account's positions and values.",
)


_RECONCILE = TaskType(
    name="reconcile",
    operator="airflow_ibkr_plugin.operators.reconcile:ReconcileOperator",
    parameters=_schema(
        {
            "on_disagreement": {
                "enum": ["fail", "go_on"],
                "default": "fail",
                "description": "Whether the task fails where books disagree; strategies only close in either case.",
            },
            "scope": {
                "enum": ["account", "strategy"],
                "default": "account",
                "description": "Whose differences count for it: all of the account, or this strategy's.",
            },
        }
    ),
    takes=_BROKER,
    description="Holds our books of the account against the broker's.",
)


def _sensors() -> list[TaskType]:
    return [
        TaskType(
            name="market_open",
            operator="airflow_ibkr_plugin.sensors.market_open:MarketOpenSensor",
            parameters=_schema(_WAITING),
            takes=(*_BROKER, "symbols", "calendar"),
            description="Waits until the market of every symbol is open.",
        ),
        TaskType(
            name="auth",
            operator="airflow_ibkr_plugin.sensors.auth:AuthSensor",
            parameters=_schema(_WAITING),
            takes=_BROKER,
            description="Waits until the gateway's session is valid; re-authenticates it if needed.",
        ),
    ]


def _per_symbol() -> list[TaskType]:
    return [
        TaskType(
            name="market_data",
            operator="airflow_ibkr_plugin.operators.market_data:MarketDataOperator",
            parameters=_schema(
                {
                    "bar_size": {"enum": list(BAR_SIZES), "default": "1 day"},
                    "duration": {
                        "type": "string",
                        # Source: TWS API, "Historical Bar Data", valid durations.
                        "pattern": "^[1-9][0-9]{0,4} [SDWMY]$",
                        "default": "1 Y",
                        "description": "How far back: a number and S, D, W, M or Y, such as 30 D.",
                    },
                    "what": {
                        "enum": ["TRADES", "MIDPOINT", "BID", "ASK"],
                        "description": "By default TRADES, for forex MIDPOINT.",
                    },
                    "use_rth": {"type": "boolean", "default": True, "description": "Only regular trading hours."},
                }
            ),
            per_symbol=True,
            takes=(*_BROKER, "calendar"),
            description="Fetches, checks and caches bars.",
        ),
        TaskType(
            name="chart",
            operator="airflow_ibkr_plugin.operators.chart:ChartOperator",
            parameters=_schema(
                {
                    "bars": {"type": "integer", "minimum": 2, "maximum": 2000, "default": 150},
                    "indicators": list_schema(),
                }
            ),
            per_symbol=True,
            takes=("strategy",),
            inputs={"market_data_task": "market_data"},
            description="Draws the bars with indicators and stores the picture.",
        ),
        TaskType(
            name="signal",
            operator="airflow_ibkr_plugin.operators.signal:SignalOperator",
            parameters=_schema(
                {
                    "analyst": {"type": "string", "ibkr:names": "analysts", "description": "Who reads the chart."},
                    "prompt": {"type": "string", "ibkr:names": "prompts", "description": "What the analyst is asked."},
                    "analyst_parameters": {
                        "type": "object",
                        "ibkr:parametersOf": {"kind": "analysts", "name": "analyst"},
                    },
                    "analyst_conn_id": {
                        "type": "string",
                        "pattern": "^[A-Za-z0-9_.-]{1,100}$",
                        "description": "Airflow connection of the analyst, where it needs one.",
                    },
                },
                "analyst",
                "prompt",
            ),
            per_symbol=True,
            takes=("strategy",),
            inputs={"chart_task": "chart"},
            description="Asks an analyst for a signal.",
        ),
        TaskType(
            name="order",
            operator="airflow_ibkr_plugin.operators.order:OrderOperator",
            parameters=_schema(
                {
                    "sizing": SIZING_SCHEMA,
                    "order_type": {"enum": [str(kind) for kind in OrderType], "default": "MKT"},
                    "limit_offset": {
                        "type": "number",
                        "minimum": -0.5,
                        "maximum": 0.5,
                        "default": 0,
                        "description": "Limit price away from the reference, as a fraction: above it for a buy.",
                    },
                    "stop_offset": {
                        "type": "number",
                        "exclusiveMinimum": 0,
                        "maximum": 0.5,
                        "description": "Stop price away from the reference, as a fraction: above it for a buy."
                        " STP and STP LMT need it; a TRAIL begins there.",
                    },
                    "trail_offset": {
                        "type": "number",
                        "exclusiveMinimum": 0,
                        "maximum": 0.5,
                        "description": "How far a TRAIL follows the market, as a fraction of the price.",
                    },
                    "trail_amount": {
                        "type": "number",
                        "exclusiveMinimum": 0,
                        "description": "The same in the instrument's currency.",
                    },
                    "bracket": BRACKET_SCHEMA,
                    "tif": {"enum": [str(kind) for kind in TimeInForce], "default": "DAY"},
                    "outside_rth": {
                        "type": "boolean",
                        "default": False,
                        "description": "Whether it may fill outside regular trading hours; LMT and STP LMT only.",
                    },
                    "wait_seconds": _ORDER_WAIT,
                    "on_timeout": {
                        "enum": ["cancel", "leave"],
                        "default": "cancel",
                        "description": "What has not filled by then is cancelled, or left for the service to book.",
                    },
                    "allow_short": {"type": "boolean", "default": False},
                },
                "sizing",
            )
            | {"allOf": _ORDER_CONDITIONS},
            per_symbol=True,
            takes=(*_BROKER, "risk", "mode"),
            inputs={"signal_task": "signal"},
            description="Checks risk, places the order, waits for it, books it.",
        ),
        TaskType(
            name="close",
            operator="airflow_ibkr_plugin.operators.close:CloseOperator",
            parameters=_schema(
                {
                    "share": {
                        "type": "number",
                        "exclusiveMinimum": 0,
                        "maximum": 1,
                        "description": "Only this share of the position.",
                    },
                    "quantity": {"type": "number", "exclusiveMinimum": 0, "description": "Only so many units."},
                    "wait_seconds": _ORDER_WAIT,
                }
            )
            | {"not": {"required": ["share", "quantity"]}},
            per_symbol=True,
            takes=(*_BROKER, "mode"),
            description="Closes what the strategy holds, or a part of it.",
        ),
    ]
