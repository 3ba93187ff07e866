import pytest

from airflow_ibkr_plugin import errors
from airflow_ibkr_plugin.broker.codes import CODES, error_for, is_notice


@pytest.mark.parametrize("code", [2100, 2104, 2106, 2158, 2174, 2199, 1101, 1102, 399, 404, 366, 10167, 10349])
def test_a_notice_fails_nothing(code: int) -> None:
    assert is_notice(code)


@pytest.mark.parametrize(
    "code", [100, 103, 110, 162, 200, 201, 202, 321, 326, 354, 420, 1100, 2110, 2099, 2200, 10197, 987654]
)
def test_what_is_no_notice_fails(code: int) -> None:
    assert not is_notice(code)


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (100, "Max rate of messages per second has been exceeded", errors.PacingViolation),
        (103, "Duplicate order id", errors.OrderIdInUse),
        (110, "The price does not conform to the minimum price variation", errors.OrderRejected),
        (162, "Historical Market Data Service error message:HMDS query returned no data", errors.NoMarketData),
        (162, "Historical Market Data Service error message:API pacing violation", errors.PacingViolation),
        (200, "No security definition has been found for the request", errors.UnknownContract),
        (200, "The contract description specified for ABC is ambiguous", errors.AmbiguousContract),
        (201, "Order rejected - reason: insufficient funds", errors.OrderRejected),
        (201, "Order rejected - reason: pacing of orders is ambiguous", errors.OrderRejected),
        (10148, "OrderId 5 that needs to be cancelled can not be cancelled", errors.BrokerError),
        (507, "Bad message length", errors.GatewayUnavailable),
        (1300, "TWS socket port has been reset", errors.GatewayUnavailable),
        (326, "Unable to connect as the client id is already in use", errors.ClientIdInUse),
        (354, "Requested market data is not subscribed", errors.NoMarketData),
        (1100, "Connectivity between IB and Trader Workstation has been lost", errors.SessionInvalid),
        (987654, "something new", errors.BrokerError),
    ],
)
def test_a_code_has_one_error_class(code: int, text: str, kind: type[errors.BrokerError]) -> None:
    error = error_for(code, text, about="the thing asked")

    assert type(error) is kind
    assert error.code == code
    assert text in str(error)
    assert "the thing asked" in str(error)


def test_pacing_is_retried_later_and_a_rejection_never() -> None:
    assert error_for(420, "pacing").family is errors.Family.RETRY_AFTER
    assert error_for(420, "pacing").retry_after is not None
    assert error_for(201, "no").family is errors.Family.FATAL


def test_every_error_of_the_table_is_one_of_the_broker() -> None:
    assert all(kind is None or issubclass(kind, errors.BrokerError) for kind in CODES.values())
