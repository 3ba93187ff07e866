"""The one table from IBKR's message codes to this package's errors.

Source of the meanings: IBKR, TWS API documentation, "Message Codes" (system, warning, client and TWS errors).
"""

from __future__ import annotations

from airflow_ibkr_plugin.errors import (
    AmbiguousContract,
    BrokerError,
    ClientIdInUse,
    GatewayUnavailable,
    NoMarketData,
    OrderIdInUse,
    OrderRejected,
    PacingViolation,
    SessionInvalid,
    UnknownContract,
)

#: Max rate of messages per second has been exceeded; names no request.
MESSAGE_RATE = 100
_TICKERS = 101
#: Code -> error class; None: a notice, it fails nothing. Codes that are not listed fail as plain BrokerError.
CODES: dict[int, type[BrokerError] | None] = {
    # --- rate limits
    MESSAGE_RATE: PacingViolation,
    _TICKERS: PacingViolation,  # max number of tickers has been reached
    420: PacingViolation,  # invalid real-time query: historical data request pacing violation
    # --- order ids and cancelling
    103: OrderIdInUse,  # duplicate order id
    135: BrokerError,  # can't find order with id
    136: BrokerError,  # this order cannot be cancelled
    161: BrokerError,  # cancel attempted when order is not in a cancellable state
    10147: BrokerError,  # order id that needs to be cancelled is not found
    10148: BrokerError,  # order id that needs to be cancelled cannot be cancelled in this state
    # --- orders
    104: OrderRejected,  # can't modify a filled order
    105: OrderRejected,  # order being modified does not match original order
    106: OrderRejected,  # can't transmit order id
    107: OrderRejected,  # cannot transmit incomplete order
    109: OrderRejected,  # price is out of the range defined by the percentage setting
    110: OrderRejected,  # the price does not conform to the minimum price variation
    111: OrderRejected,  # the tif type and the order type are incompatible
    113: OrderRejected,  # the tif option should be set to DAY for this order type
    116: OrderRejected,  # order cannot be transmitted to a dead exchange
    201: OrderRejected,  # order rejected - reason
    202: OrderRejected,  # order cancelled - reason
    203: OrderRejected,  # the security is not available or allowed for this account
    325: OrderRejected,  # discretionary orders are not supported for this combination
    328: OrderRejected,  # trailing stop orders can be attached only to limit or stop limit orders
    329: OrderRejected,  # order modify failed: cannot change to the new order type
    382: OrderRejected,  # price violates the ticks constraint
    383: OrderRejected,  # size violates the size constraint
    387: OrderRejected,  # unsupported order type for this exchange and security type
    388: OrderRejected,  # order size is smaller than the minimum requirement
    434: OrderRejected,  # the order size cannot be zero
    435: OrderRejected,  # you must specify an account
    10052: OrderRejected,  # invalid time in force
    10243: OrderRejected,  # fractional-sized order cannot be placed via API
    10268: OrderRejected,  # the EtradeOnly order attribute is not supported
    10289: OrderRejected,  # you must set the cash quantity for this order
    10311: OrderRejected,  # direct routing is restricted by the precautionary settings
    399: None,  # order message: held until the market opens, and the like; the order lives
    404: None,  # shares are not available for short sale yet; the order is held and lives
    481: None,  # order size was reduced
    10349: None,  # order TIF was set to DAY based on order preset
    # --- contracts
    200: UnknownContract,  # no security definition has been found; or "is ambiguous", see _by_text
    # --- market data
    162: NoMarketData,  # historical market data service error; or a pacing violation, see _by_text
    354: NoMarketData,  # requested market data is not subscribed
    10089: NoMarketData,  # requested market data requires additional subscription
    10168: NoMarketData,  # requested market data is not subscribed, delayed data is not enabled
    10186: NoMarketData,  # requested market data is not subscribed, delayed data is not enabled
    10187: NoMarketData,  # failed to request historical ticks
    10197: NoMarketData,  # no market data during competing live session
    165: None,  # historical market data service query message
    300: None,  # can't find EId: a request that has just ended was cancelled
    366: None,  # no historical data query found: the query that was cancelled had already ended
    10090: None,  # part of requested market data is not subscribed
    10167: None,  # requested market data is not subscribed, displaying delayed data
    # --- requests
    320: BrokerError,  # server error when reading an API client request
    321: BrokerError,  # server error when validating an API client request
    322: BrokerError,  # server error when processing an API client request
    # --- connection and session
    326: ClientIdInUse,  # unable to connect as the client id is already in use
    502: GatewayUnavailable,  # couldn't connect to TWS
    503: BrokerError,  # the TWS is out of date and must be upgraded
    504: GatewayUnavailable,  # not connected (made by clients, never on the wire)
    507: GatewayUnavailable,  # bad message length: the socket is out of step and was closed
    1100: SessionInvalid,  # connectivity between IB and TWS has been lost
    1300: GatewayUnavailable,  # TWS socket port has been reset and this connection is being dropped
    2110: SessionInvalid,  # connectivity between TWS and server is broken; it will be restored automatically
    1101: None,  # connectivity restored, data lost
    1102: None,  # connectivity restored, data maintained
}
# Farm status (2103 to 2108, 2119, 2158), account updates (2100), order warnings (2109, 2161), time zones (2174).
_NOTICES = range(2100, 2200)

_REMEDIES: dict[type[BrokerError], str] = {
    PacingViolation: "Wait; then ask for less at once.",
    OrderIdInUse: "Allocate a new order id and send it again.",
    UnknownContract: "Check symbol, sec_type, exchange and currency of the instrument.",
    AmbiguousContract: "Name primary_exchange and currency of the instrument.",
    NoMarketData: "Check the account's market data subscriptions and the requested time.",
    ClientIdInUse: "Close the other client or give the connection another range of client ids.",
    SessionInvalid: "Wait until the gateway is logged in again, or log in by hand.",
    GatewayUnavailable: "Check that the gateway runs and that its API port is open to this host.",
}


def is_notice(code: int) -> bool:
    """Whether a message with this code only informs and fails nothing."""
    return CODES[code] is None if code in CODES else code in _NOTICES


def is_rate_limit(error: BrokerError) -> bool:
    """Whether IBKR complains of too much in too little time; too many tickers at once are no matter of time."""
    return isinstance(error, PacingViolation) and error.code not in (None, _TICKERS)


def error_for(code: int, message: str, *, about: str = "") -> BrokerError:
    """The error that a message of the broker means.

    :param message: IBKR's text, kept word for word.
    :param about: what was asked, named in the error's message.
    """
    kind = _by_text(code, message.lower()) or CODES.get(code) or BrokerError
    said = f"IBKR answered with error {code}: {message.rstrip('.')}."
    return kind(f"{about}: {said}" if about else said, remedy=_REMEDIES.get(kind, ""), code=code)


def _by_text(code: int, message: str) -> type[BrokerError] | None:
    # Two codes mean two things each; only the text tells them apart.
    if code == 162 and "pacing" in message:
        return PacingViolation
    if code == 200 and "ambiguous" in message:
        return AmbiguousContract
    return None
