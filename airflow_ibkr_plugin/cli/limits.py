"""`airflow ibkr limits list|set|unset|history`: risk rules that hold for accounts, whatever their workflows say."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_ibkr_plugin.cli.person import who
from airflow_ibkr_plugin.errors import ConfigError, IBKRPluginError

if TYPE_CHECKING:
    from airflow_ibkr_plugin.store.models.limits import LimitChange


def show_list(args: argparse.Namespace) -> None:
    """What is in force now."""
    from airflow_ibkr_plugin.registry import get_registry
    from airflow_ibkr_plugin.store.database import open_database
    from airflow_ibkr_plugin.store.limits import Limits
    from airflow_ibkr_plugin.store.sql import current_time

    try:
        with open_database().read() as session:
            limits = Limits(session).in_force(args.account, current_time(session))
        known = get_registry().risk_rules
    except IBKRPluginError as error:
        sys.exit(str(error))
    rows = [
        {
            "account": limit.account or "every account",
            "rule": limit.rule if limit.rule in known else f"{limit.rule} (not installed: denies every order)",
            "parameters": _text(limit.parameters),
            "until": _time(limit.until),
            "changed_by": limit.changed_by,
            "reason": limit.reason,
        }
        for limit in limits
    ]
    if not rows and args.output == "table":
        print("No account limit is set: orders are held against the rules of their workflows and those always on.")
        return
    _print(rows, args.output)


def show_history(args: argparse.Namespace) -> None:
    """Every change."""
    from airflow_ibkr_plugin.store.database import open_database
    from airflow_ibkr_plugin.store.limits import Limits
    from airflow_ibkr_plugin.store.sql import current_time

    try:
        with open_database().write() as session:
            limits = Limits(session)
            limits.record_ends(current_time(session))
            changes = limits.history(args.account, args.rule)
    except IBKRPluginError as error:
        sys.exit(str(error))
    rows = [
        {
            "at": _time(change.at),
            "account": change.account or "every account",
            "rule": change.rule,
            "from": _text(change.old_parameters),
            "to": _text(change.new_parameters),
            "until": _time(change.until),
            "changed_by": change.changed_by,
            "reason": change.reason,
        }
        for change in changes
    ]
    _print(rows, args.output)


def set_limit(args: argparse.Namespace) -> None:
    """Put a limit in force."""
    from airflow_ibkr_plugin.registry import get_registry
    from airflow_ibkr_plugin.trading.account_limits import parameters_fault

    try:
        rule, parameters = get_registry().risk_rule(args.rule), _parameters(args.parameters)
        if fault := parameters_fault(rule, parameters):
            raise ConfigError(
                f"--parameters of {args.rule}: {fault}.",
                remedy=f"Its schema: {json.dumps(rule.parameters)}",
            )
        _change(args, parameters)
    except IBKRPluginError as error:
        sys.exit(str(error))


def unset_limit(args: argparse.Namespace) -> None:
    """Take a limit away; its rule need not be installed."""
    try:
        _change(args, None)
    except IBKRPluginError as error:
        sys.exit(str(error))


def _change(args: argparse.Namespace, parameters: Mapping[str, Any] | None) -> None:
    from airflow_ibkr_plugin.store.database import open_database
    from airflow_ibkr_plugin.store.limits import Limits
    from airflow_ibkr_plugin.store.sql import current_time

    account = args.account or ""
    if not args.reason.strip():
        raise ConfigError("A change of a limit is recorded with its reason.", remedy="Give --reason.")
    with open_database().write() as session:
        now, limits = current_time(session), Limits(session)
        change = limits.change(
            account, args.rule, parameters, by=who(), reason=args.reason, at=now, until=_until(args.until, now)
        )
        known = limits.knows(account)
    whose = f"{args.rule} of {account or 'every account'}"
    if change is None:
        print(f"{whose}: {_text(parameters)} already; nothing was changed.")
    else:
        print(f"{whose}: {_told(change)}")
    if not known:
        print(f"Warning: no order of account {account} is on record. Check its number.", file=sys.stderr)


def _told(change: LimitChange) -> str:
    until = f" until {_time(change.until)}, then what was before" if change.until else ""
    return f"{_text(change.old_parameters)} -> {_text(change.new_parameters)}{until}, by {change.changed_by}"


def _parameters(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        raise ConfigError(
            f"--parameters is not JSON: {error}.", remedy="""Write it as '{"max": 5000}', in single quotes."""
        ) from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _until(text: str, now: datetime) -> datetime | None:
    """:raises ConfigError: no time, one without a zone, or one that is past."""
    if not text:
        return None
    remedy = "Write a time to come with its zone, such as 2026-12-01T21:00Z."
    try:
        until = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--until {text!r} is no time.", remedy=remedy) from None
    if until.tzinfo is None:
        raise ConfigError(f"--until {text!r} has no time zone.", remedy=remedy)
    if until <= now:
        raise ConfigError(f"--until {text!r} is past: it is {_time(now)}.", remedy=remedy)
    return until.astimezone(UTC)


def _text(parameters: Mapping[str, Any] | None) -> str:
    return "no limit" if parameters is None else json.dumps(parameters, sort_keys=True)


def _time(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" if at else ""


def _print(rows: list[dict[str, str]], output: str) -> None:
    from airflow.cli.simple_table import AirflowConsole

    AirflowConsole().print_as(data=rows, output=output)
