"""What an account starts with, and whether its currencies can be used."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.simulator.account.commissions import STOCKS
from airflow_ibkr_plugin.simulator.account.margin import CURRENCY_RATES
from airflow_ibkr_plugin.simulator.account.money import CENT

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.gateway import Gateway

#: In the base currency, where nothing else is asked for.
START_CASH = Decimal(1_000_000)

_REMEDY = "Write it like --cash USD=1000000,EUR=50000."


def parse_cash(text: str) -> Mapping[str, Decimal]:
    """Cash by currency from `USD=1000000,EUR=50000`.

    :raises ConfigError: it is no such list, or an amount is none, has fractions of a cent or is negative.
    """
    cash: dict[str, Decimal] = {}
    for part in text.split(","):
        currency, _, number = part.strip().partition("=")
        try:
            amount = Decimal(number)
            usable = currency not in cash and amount.is_finite() and amount >= 0 and amount % CENT == 0
        except InvalidOperation:
            usable = False
        if not usable:
            raise ConfigError(f"--cash: {part.strip()!r} is no currency with an amount of its own.", remedy=_REMEDY)
        cash[currency] = amount
    return cash


def account_codes(text: str) -> tuple[str, ...]:
    """The accounts of a login, from `DU1234567` or `DU1234567,DU1234568`.

    :raises ConfigError: there is none, an empty one, or one twice.
    """
    codes = tuple(code.strip() for code in text.split(","))
    if not all(codes) or len(set(codes)) < len(codes):
        raise ConfigError(f"--account: {text!r} is no list of accounts.", remedy="Write it like DU1234567,DU1234568.")
    return codes


def check_currencies(gateway: Gateway) -> None:
    """Refuse to start with a currency that could not be converted or charged.

    :raises ConfigError: a currency of the account or of an instrument has no rate, commission or margin.
    """
    known = CURRENCY_RATES.keys() & STOCKS.keys()
    used = {
        "--base-currency": {gateway.base_currency},
        "--cash": set(gateway.start_cash),
        "an instrument": {instrument.currency for instrument in gateway.catalogue},
    }
    for where, currencies in used.items():
        if unknown := sorted(currencies - known):
            raise ConfigError(
                f"{where}: {unknown[0]!r} is no currency of this simulator.", remedy=f"Use {', '.join(sorted(known))}."
            )
