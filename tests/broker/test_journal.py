"""Messages as a real TWS sent them (server version 164; test data of wboayue/rust-ibapi, MIT), through the installed
client library into the journal."""

from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.broker import library
from airflow_ibkr_plugin.broker.journal import Journal, QuoteTicks
from airflow_ibkr_plugin.broker.loop import PrivateLoop
from airflow_ibkr_plugin.errors import OrderRejected, PacingViolation, SessionInvalid
from airflow_ibkr_plugin.trading.orders import Side

MAX = "1.7976931348623157E308"
OPEN_ORDER = (
    "5|13|76792991|TSLA|STK||0|?||SMART|USD|TSLA|NMS|BUY|100|MKT|0.0|0.0|DAY||DU1236109||0||100|1376327563|0|0|0||"
    "1376327563.0/DU1236109/100||||||||||0||-1|0||||||2147483647|0|0|0||3|0|0||0|0||0|None||0||||?|0|0||0|0||||||0|0|0|"
    f"2147483647|2147483647|||0||IB|0|0||0|0|PreSubmitted|{'|'.join([MAX] * 9)}||||||0|0|0|None|{'|'.join([MAX] * 6)}"
    "|0||||0|1|0|0|0|||0|"
)
STATUS = "3|13|PreSubmitted|0|100|0|1376327563|0|0|100||0|"
FILLED = "3|13|Filled|100|0|196.52|1376327563|0|196.52|100||0|"
EXECUTION = (
    "11|-1|13|76792991|TSLA|STK||0.0|||ISLAND|USD|TSLA|NMS|00025b46.63f8f39c.01.01|20230224  12:04:56|DU1236109|ISLAND|"
    "BOT|100|196.52|1376327563|100|0|100|196.52|||||2|"
)
COMMISSION = f"59|1|00025b46.63f8f39c.01.01|1.0|USD|{MAX}|{MAX}||"

Feed = Callable[..., Journal]


@pytest.fixture
def feed() -> Iterator[Feed]:
    """Run messages through the library's decoder into a new journal, on a loop of their own."""
    loop = PrivateLoop("test-journal")
    client: Any = None

    async def start() -> Journal:
        nonlocal client
        client = library.load().IB()
        client.TimezoneTWS = "US/Eastern"
        client.wrapper.clientId = 100
        client.client.decoder.serverVersion = 164
        journal = Journal()
        journal.attach(client)
        return journal

    journal = loop.run(start())

    async def decode(message: str) -> None:
        client.client.decoder.interpret(message.split("|")[:-1])

    def run(*messages: str) -> Journal:
        for message in messages:
            job: Coroutine[Any, Any, None] = decode(message)
            loop.run(job)
        return journal

    yield run
    loop.close()


def test_a_recorded_market_order(feed: Feed) -> None:
    journal = feed(OPEN_ORDER, STATUS, EXECUTION, FILLED, COMMISSION)

    (order,) = journal.orders.values()
    assert (order.perm_id, order.order_id, order.client_id) == (1376327563, 13, 100)
    assert (order.side, order.quantity, order.order_type) == (Side.BUY, 100, "MKT")
    assert (order.status, order.filled, order.remaining) == ("Filled", 100, 0)
    assert order.average_price == Decimal("196.52")
    assert order.limit_price is None
    (fill,) = journal.executions.values()
    assert (fill.quantity, fill.price, fill.side) == (100, Decimal("196.52"), Side.BUY)
    assert (fill.commission, fill.commission_currency, fill.realized_pnl) == (Decimal(1), "USD", None)


def test_a_time_without_a_zone_is_read_in_the_gateways(feed: Feed) -> None:
    (fill,) = feed(OPEN_ORDER, EXECUTION).executions.values()
    assert fill.time == datetime(2023, 2, 24, 17, 4, 56, tzinfo=UTC)


def test_a_commission_may_come_before_its_execution(feed: Feed) -> None:
    (fill,) = feed(OPEN_ORDER, COMMISSION, EXECUTION).executions.values()
    assert fill.commission == 1


@pytest.mark.parametrize("code", [201, 110, 399, 10148])
def test_an_error_never_changes_an_order(feed: Feed, code: int) -> None:
    journal = feed(OPEN_ORDER, STATUS)
    journal.order_errors[13] = []

    feed(f"4|2|13|{code}|something|")

    (order,) = journal.orders.values()
    assert order.status == "PreSubmitted"
    assert len(journal.order_errors[13]) == (0 if code == 399 else 1)


def test_an_end_is_told_by_order_status_only(feed: Feed) -> None:
    """openOrder says Filled first, without quantities: nobody may take the order for done then."""
    journal = feed(OPEN_ORDER, STATUS, OPEN_ORDER.replace("PreSubmitted", "Filled"))
    assert [order.status for order in journal.orders.values()] == ["PreSubmitted"]

    feed(FILLED, OPEN_ORDER)
    assert [(order.status, order.filled) for order in journal.orders.values()] == [("Filled", 100)]


def test_a_listing_names_what_came_while_it_was_open(feed: Feed) -> None:
    journal = feed(OPEN_ORDER)
    with journal.listing() as listing:
        feed(EXECUTION)
    feed(STATUS)

    assert (listing.orders, listing.executions) == (set(), {"00025b46.63f8f39c.01.01"})


def test_an_order_without_permid_is_kept_once(feed: Feed) -> None:
    journal = feed(OPEN_ORDER.replace("1376327563", "0"))
    assert set(journal.orders) == {(100, 13)}

    feed(STATUS)
    assert set(journal.orders) == {1376327563}


def test_a_question_about_margin_is_no_order(feed: Feed) -> None:
    what_if = OPEN_ORDER.replace("|0|0|PreSubmitted|", "|0|1|PreSubmitted|")
    assert what_if != OPEN_ORDER
    assert feed(what_if).orders == {}


@pytest.mark.parametrize("lost", [1100, 2110])
@pytest.mark.parametrize("restored", [1101, 1102])
def test_lost_and_restored_connectivity(feed: Feed, lost: int, restored: int) -> None:
    journal = feed(f"4|2|-1|{lost}|Connectivity between IB and TWS has been lost|")
    assert isinstance(journal.down, SessionInvalid)
    assert journal.failed is None
    assert feed(f"4|2|-1|{restored}|Connectivity restored|").down is None


@pytest.mark.parametrize("code", [326, 507, 1300])
def test_an_error_of_the_connection_ends_it(feed: Feed, code: int) -> None:
    journal = feed(f"4|2|-1|{code}|something|")
    assert journal.failed is not None
    assert journal.failed.code == code


def test_an_error_reaches_the_request_it_names(feed: Feed) -> None:
    journal = feed()
    loop = PrivateLoop("test-futures")

    async def fail() -> tuple[Any, Any, Any]:
        import asyncio

        named, other, idless = (asyncio.get_running_loop().create_future() for _ in range(3))
        journal.requests = {7: named, 8: other, "openOrders": idless}
        journal.on_error(7, 162, "API pacing violation")
        journal.on_error(-1, 321, "The API interface is currently in Read-Only mode")
        return named.exception(), other.done(), idless.exception()

    named, other, idless = loop.run(fail())
    loop.close()

    assert isinstance(named, PacingViolation)
    assert not other
    assert idless.code == 321
    assert not isinstance(idless, OrderRejected)


def test_ticks_of_a_quote(feed: Feed) -> None:
    journal = feed()
    live, delayed, frozen = QuoteTicks(), QuoteTicks(), QuoteTicks()
    journal.quotes = {1: live, 2: delayed, 3: frozen}

    feed("58|1|1|1|", "1|6|1|1|10.25|100|0|", "1|6|1|2|10.27|100|0|", "1|6|1|4|-1|0|0|")  # -1: no last price
    feed("58|1|2|3|", "1|6|2|66|10.25|100|0|", "1|6|2|67|10.27|100|0|")
    feed("58|1|3|2|", "58|1|3|1|", "1|6|3|1|10.25|100|0|", "1|6|99|1|11.11|100|0|")

    assert (live.prices, live.delayed) == ({"bid": Decimal("10.25"), "ask": Decimal("10.27")}, False)
    assert (delayed.prices, delayed.delayed) == (live.prices, True)
    assert (frozen.prices, frozen.delayed) == ({"bid": Decimal("10.25")}, True)


@pytest.mark.parametrize("kind", [66, 67, 68, 75])
def test_a_delayed_tick_is_delayed_without_a_word_about_its_type(feed: Feed, kind: int) -> None:
    journal = feed()
    journal.quotes = {1: QuoteTicks()}
    feed(f"1|6|1|{kind}|10.25|100|0|")
    assert journal.quotes[1].delayed


@pytest.mark.parametrize("none", ["0", "-1", "-1.0"])
def test_an_empty_side_of_the_book_is_no_price(feed: Feed, none: str) -> None:
    journal = feed()
    journal.quotes = {1: QuoteTicks()}
    feed("1|6|1|1|10.25|100|0|", f"1|6|1|2|{none}|0|0|")
    assert journal.quotes[1].prices == {"bid": Decimal("10.25")}
