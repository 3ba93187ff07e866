"""Limits of accounts: risk rules that the installation asks of every order, beside the workflow's own. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any

from airflow_ibkr_plugin.trading.risk import RiskContext, RiskRule, Verdict, deny

#: In place of an account: every account.
EVERY_ACCOUNT = ""
#: What stands before the rule's name in a decision by an account's limit.
PREFIX = "account limit "


@dataclass(frozen=True, kw_only=True)
class AccountLimit:
    """A risk rule with parameters that holds for an account.

    :param id: of the change that put it in force.
    :param account: '' for every account.
    :param parameters: None where it is in force that there is none.
    :param until: when it reverts, aware UTC; None: never.
    """

    id: int
    account: str
    rule: str
    parameters: Mapping[str, Any] | None
    until: datetime | None
    changed_by: str
    reason: str


def limit_rules(
    limits: Iterable[AccountLimit], known: Mapping[str, RiskRule]
) -> list[tuple[RiskRule, Mapping[str, Any]]]:
    """The limits as rules for the engine, named so that they are told from the workflow's.

    One whose rule is not known, or whose parameters are not (any more) what the rule takes, denies: a limit that
    cannot be checked is not passed.

    :param known: the rules of the installed packages, by name.
    """
    return [(_as_rule(limit, known), limit.parameters) for limit in limits if limit.parameters is not None]


def _as_rule(limit: AccountLimit, known: Mapping[str, RiskRule]) -> RiskRule:
    assert limit.parameters is not None
    name, rule = PREFIX + limit.rule, known.get(limit.rule)
    if rule is None:
        return RiskRule(name=name, check=_denies(f"no installed package offers the risk rule {limit.rule!r}"))
    if fault := parameters_fault(rule, limit.parameters):
        return RiskRule(name=name, check=_denies(f"its parameters do not fit the rule: {fault}"), order=rule.order)
    return replace(rule, name=name)


def _denies(reason: str) -> Any:
    def check(context: RiskContext, parameters: Mapping[str, Any]) -> Verdict:
        return deny(f"{reason}; see `airflow ibkr limits`", limit=json.dumps(parameters, sort_keys=True))

    return check


def parameters_fault(rule: RiskRule, parameters: object) -> str:
    """What is wrong with a rule's parameters, by its JSON Schema; '' if nothing is."""
    return _fault(json.dumps(rule.parameters, sort_keys=True), json.dumps(parameters, sort_keys=True))


@lru_cache(maxsize=1024)
def _fault(schema: str, parameters: str) -> str:
    import jsonschema

    found = jsonschema.Draft202012Validator(json.loads(schema)).iter_errors(json.loads(parameters))
    return "; ".join(f"{error.json_path}: {error.message}" for error in found)
