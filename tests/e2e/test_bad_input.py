"""Bad input at every step: one clear error that says what to do, and nothing stored is lost.

The operators run in turn in this process, each handed what the ones before it returned, as Airflow hands it on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from pytest_httpserver import HTTPServer

from airflow_ibkr_plugin.errors import (
    ChartMissing,
    ConfigError,
    Family,
    GatewayUnavailable,
    IBKRPluginError,
    InvalidSignal,
    NoMarketData,
    OrderRejected,
    StoreFull,
    UnknownContract,
)
from airflow_ibkr_plugin.operators.chart import ChartOperator
from airflow_ibkr_plugin.operators.market_data import MarketDataOperator
from airflow_ibkr_plugin.operators.order import OrderOperator
from airflow_ibkr_plugin.operators.portfolio import PortfolioOperator
from airflow_ibkr_plugin.operators.run import FinishRunOperator, StartRunOperator
from airflow_ibkr_plugin.operators.signal import SignalOperator
from airflow_ibkr_plugin.store.account_snapshots import AccountSnapshots
from airflow_ibkr_plugin.store.charts import Charts
from airflow_ibkr_plugin.store.database import open_database
from airflow_ibkr_plugin.store.failures import Failures
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.models.market import BarRow
from airflow_ibkr_plugin.store.risk_decisions import RiskDecisions
from airflow_ibkr_plugin.store.runs import Runs
from airflow_ibkr_plugin.store.signals import Signals
from airflow_ibkr_plugin.store.tracking_outbox import TrackingOutbox

pytestmark = [pytest.mark.airflow, pytest.mark.usefixtures("installation")]

KEY = ("bad_input", "r1")


@dataclass
class Strategy:
    """One run of one strategy on one symbol, task by task."""

    symbol: str = "AAPL"
    results: dict[str, Any] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)

    def run(self, operator: Any) -> Any:
        """Execute a task and keep what it returns."""
        ti = SimpleNamespace(
            dag_id=KEY[0],
            run_id=KEY[1],
            task_id=operator.task_id,
            map_index=-1,
            try_number=1,
            xcom_pull=lambda task_ids, map_indexes: self.results.get(task_ids),
            get_task_states=lambda **_: {KEY[1]: self.states},
        )
        self.results[operator.task_id] = operator.execute({"ti": ti, "dag_run": SimpleNamespace(run_type="manual")})
        return self.results[operator.task_id]

    def fails(self, operator: Any, error: type[IBKRPluginError], match: str = "") -> Any:
        """Execute a task that fails with that error and a remedy, which are also stored; returns the error."""
        with pytest.raises(error, match=match) as caught:
            self.run(operator)
        assert type(caught.value) is error
        assert caught.value.remedy
        with open_database().read() as session:
            failure = Failures(session).for_run(*KEY)[-1]
        assert (failure.task_id, failure.error_type) == (operator.task_id, error.__name__)
        assert failure.family == caught.value.family
        assert caught.value.remedy in failure.message
        assert error.__name__ in failure.traceback
        return caught.value

    def start(self) -> Any:
        config = {"mode": "paper", "tasks": {}}
        return self.run(StartRunOperator(task_id="start_run", strategy="bad", config=config, config_hash="0" * 64))

    def market_data(self) -> MarketDataOperator:
        return MarketDataOperator(task_id="market_data", strategy="bad", symbol=self.symbol, duration="6 M")

    def chart(self) -> ChartOperator:
        return ChartOperator(
            task_id="chart", strategy="bad", symbol=self.symbol, market_data_task="market_data", bars=60
        )

    def signal(self, **options: Any) -> SignalOperator:
        chosen: dict[str, Any] = {"analyst": "rules", "prompt": "trend_following"} | options
        return SignalOperator(task_id="signal", strategy="bad", symbol=self.symbol, chart_task="chart", **chosen)

    def order(self, **options: Any) -> OrderOperator:
        chosen: dict[str, Any] = {"sizing": {"quantity": 10}, "wait_seconds": 20.0} | options
        return OrderOperator(task_id="order", strategy="bad", symbol=self.symbol, signal_task="signal", **chosen)

    def until_signal(self, action: str) -> None:
        """Everything before the order, the analyst's word replaced."""
        self.start()
        self.run(self.market_data())
        self.run(self.chart())
        self.run(self.signal())
        levels = {"action": action, "entry": None, "stop": None, "target": None}
        self.results["signal"]["signal"] |= levels


@pytest.fixture
def strategy() -> Strategy:
    return Strategy()


def chart_file(strategy: Strategy) -> Path:
    return Path(strategy.results["chart"]["url"].removeprefix("file://"))


def counts() -> tuple[int, int, int]:
    """How many bars, charts and signals are stored."""
    with open_database().read() as session:
        bars = session.query(BarRow).count()
        return bars, len(Charts(session).for_run(*KEY)), len(Signals(session).for_run(*KEY))


def test_a_closed_gateway(strategy: Strategy, gateway: Any) -> None:
    strategy.start()
    gateway.stop()
    error = strategy.fails(strategy.market_data(), GatewayUnavailable, match=f"127.0.0.1:{gateway.port}")
    assert error.family is Family.RETRY
    strategy.fails(PortfolioOperator(task_id="portfolio", strategy="bad"), GatewayUnavailable)
    with open_database().read() as session:
        assert AccountSnapshots(session).for_run(*KEY) == []


def test_an_unknown_symbol(strategy: Strategy) -> None:
    strategy.symbol = "NOSUCH"
    strategy.fails(strategy.market_data(), UnknownContract, match="NOSUCH")
    assert counts() == (0, 0, 0)


def test_an_empty_history(strategy: Strategy, gateway: Any) -> None:
    gateway.control("clock", set="1998-06-12T14:30:00Z")  # the recorded prices begin later
    strategy.symbol = "XSPX"
    strategy.fails(strategy.market_data(), NoMarketData)
    assert counts() == (0, 0, 0)


def test_bars_that_are_gone(strategy: Strategy) -> None:
    strategy.run(strategy.market_data())
    with open_database().write() as session:
        session.query(BarRow).delete()
    strategy.fails(strategy.chart(), NoMarketData, match="AAPL")
    assert counts() == (0, 0, 0)


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_a_chart_that_is_gone_or_altered(strategy: Strategy, harm: Callable[[Path], Any]) -> None:
    strategy.run(strategy.market_data())
    strategy.run(strategy.chart())
    before = counts()
    harm(chart_file(strategy))
    error = strategy.fails(strategy.signal(), ChartMissing, match=r"\.png")
    assert error.family is Family.FATAL
    assert counts() == before
    assert before[0] > 100
    # As the remedy says: the chart task again, then the signal.
    strategy.run(strategy.chart())
    assert strategy.run(strategy.signal())["signal_id"]


def test_a_full_disk_under_the_charts(strategy: Strategy, installation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strategy.run(strategy.market_data())
    before = counts()
    # The kernel's own "no space left": the file that the chart is written to first is /dev/full.
    name = UUID(int=7)
    monkeypatch.setattr("airflow_ibkr_plugin.analysis.chart_storage.uuid4", lambda: name)
    folder = installation / "charts" / KEY[0]
    folder.mkdir(parents=True)
    (folder / f".{name.hex}.part").symlink_to("/dev/full")
    error = strategy.fails(strategy.chart(), StoreFull)
    assert error.family is Family.NEEDS_HUMAN
    assert counts() == before
    assert list(folder.iterdir()) == []
    # With room again, the same task goes through.
    strategy.run(strategy.chart())
    assert counts() == (before[0], 1, 0)


@pytest.fixture
def babbler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """An OpenAI-compatible model server that says one thing, behind the connection `babbler`."""
    with HTTPServer(threaded=True) as server:

        def says(text: str) -> None:
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            completion = {
                "id": "c1",
                "object": "chat.completion",
                "created": 1700000000,
                "model": "babbler-1",
                "choices": [choice],
            }
            server.expect_request("/v1/chat/completions", method="POST").respond_with_json(completion)

        connection = {
            "conn_type": "pydanticai",
            "host": server.url_for("/v1"),
            "password": "sk-not-a-real-key",
            "extra": {"model": "openai-chat:babbler"},
        }
        monkeypatch.setenv("AIRFLOW_CONN_BABBLER", json.dumps(connection))
        yield says


@pytest.mark.parametrize(
    "nonsense",
    [
        "The moon is in Saturn: buy everything!",
        json.dumps({"symbol": "AAPL", "action": "buy", "confidence": 0.9, "entry": 1e9, "rationale": "Up it goes."}),
    ],
    ids=["prose", "absurd level"],
)
def test_an_analyst_that_answers_nonsense(
    strategy: Strategy, babbler: Callable[[str], None], capfd: pytest.CaptureFixture[str], nonsense: str
) -> None:
    babbler(nonsense)
    strategy.run(strategy.market_data())
    strategy.run(strategy.chart())
    before = counts()
    strategy.fails(strategy.signal(analyst="llm", analyst_conn_id="babbler"), InvalidSignal)
    _, _, quoted = capfd.readouterr().out.partition("the analyst's answer, word for word: ")
    assert ("Saturn" if "Saturn" in nonsense else "Up it goes.") in quoted
    assert counts() == before


def test_a_packages_analyst_that_is_wrong_is_quoted_too(
    strategy: Strategy, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from dataclasses import replace

    from airflow_ibkr_plugin.analysis import rules_analyst

    real = rules_analyst.RulesAnalyst.analyse

    def wrong(self: Any, request: Any) -> Any:
        answer = real(self, request)
        return replace(answer, signal=replace(answer.signal, symbol="NVDA"), raw="NVDA to the moon")

    monkeypatch.setattr(rules_analyst.RulesAnalyst, "analyse", wrong)
    strategy.run(strategy.market_data())
    strategy.run(strategy.chart())
    strategy.fails(strategy.signal(), InvalidSignal, match="NVDA")
    assert "word for word: NVDA to the moon" in capfd.readouterr().out


def test_a_sell_of_what_the_strategy_does_not_hold(strategy: Strategy, gateway: Any) -> None:
    strategy.until_signal("sell")
    result = strategy.run(strategy.order())
    assert result["state"] == "denied"
    with open_database().read() as session:
        (intent,) = Intents(session).for_run(*KEY)
        decisions = RiskDecisions(session).for_run(*KEY)
        assert Failures(session).for_run(*KEY) == []
    assert str(intent.state) == "denied"
    assert intent.sent_at is None
    assert [str(d.outcome) for d in decisions].count("deny") == 1
    assert gateway.control("orders")["orders"] == []


def test_the_stop_of_an_order_comes_from_configuration_never_from_the_signal(strategy: Strategy, gateway: Any) -> None:
    with pytest.raises(ConfigError, match="stop_offset"):
        strategy.order(order_type="STP")
    strategy.until_signal("buy")
    strategy.results["signal"]["signal"] |= {"entry": 1.0, "stop": 0.5, "target": 2.0}
    result = strategy.run(strategy.order(order_type="STP LMT", stop_offset=0.2, limit_offset=0.01, wait_seconds=1.0))
    assert result["state"] == "cancelled"  # the market is far below it
    with open_database().read() as session:
        (intent,) = Intents(session).for_run(*KEY)
    assert intent.stop_price == pytest.approx(intent.reference_price * Decimal("1.2"), rel=Decimal("0.02"))
    assert intent.limit_price == pytest.approx(intent.stop_price * Decimal("1.01"), rel=Decimal("0.001"))


def test_a_later_hold_does_not_orphan_an_order(strategy: Strategy, gateway: Any) -> None:
    strategy.until_signal("buy")
    gateway.control("drop_after_accept")
    strategy.fails(strategy.order(), GatewayUnavailable)
    with open_database().read() as session:
        (intent,) = Intents(session).for_run(*KEY)
    assert str(intent.state) == "ambiguous"
    # The signal task was cleared, and says something else now.
    strategy.results["signal"]["signal"] |= {"action": "hold"}
    result = strategy.run(strategy.order())
    assert (result["state"], result["order_ref"]) == ("filled", intent.order_ref)
    assert len(gateway.control("orders", order_ref=intent.order_ref)["orders"]) == 1
    # An ordinary hold, as this is by now, needs no gateway.
    gateway.stop()
    assert strategy.run(strategy.order())["state"] == "hold"


def test_an_order_that_the_broker_refuses(strategy: Strategy, gateway: Any) -> None:
    strategy.until_signal("buy")
    order = strategy.order(sizing={"quantity": 10_000_000})
    error = strategy.fails(order, OrderRejected, match="AAPL")
    assert error.family is Family.FATAL
    with open_database().read() as session:
        (intent,) = Intents(session).for_run(*KEY)
    assert str(intent.state) == "rejected"
    assert intent.order_ref in str(error)
    # A clear asks the broker and the book; it does not send it again.
    strategy.fails(strategy.order(sizing={"quantity": 10_000_000}), OrderRejected)
    assert len(gateway.control("orders", order_ref=intent.order_ref)["orders"]) <= 1
    with open_database().read() as session:
        assert len(Intents(session).for_run(*KEY)) == 1


def test_a_run_that_never_started_ends_without_a_second_error(
    strategy: Strategy, capfd: pytest.CaptureFixture[str]
) -> None:
    strategy.states = {"start_run": "failed", "auth": "upstream_failed"}
    finished = strategy.run(FinishRunOperator(task_id="finish_run", strategy="bad"))
    assert finished == {"status": "failed", "failed": ["start_run"]}
    assert "never opened" in capfd.readouterr().out
    with open_database().read() as session:
        assert Runs(session).get(*KEY) is None
        assert Failures(session).for_run(*KEY) == []


def test_an_order_that_was_reserved_and_never_sent_is_released_when_the_run_ends(
    strategy: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any) -> Any:
        raise KeyboardInterrupt

    strategy.until_signal("buy")
    with monkeypatch.context() as patch:
        patch.setattr("airflow_ibkr_plugin.execution.send.allocate_order_id", stopped)
        with pytest.raises(KeyboardInterrupt):
            strategy.run(strategy.order())
    strategy.states = {"order": "failed"}
    strategy.run(FinishRunOperator(task_id="finish_run", strategy="bad"))
    with open_database().read() as session:
        (intent,) = Intents(session).for_run(*KEY)
        rows = TrackingOutbox(session).pending(None, *KEY)
    assert str(intent.state) == "decided"
    assert "nothing was sent" in intent.reason
    told = [row.payload["values"].get("order/AAPL") for row in rows if row.kind == "tags"]
    assert [text for text in told if text] == ["BUY 10 reserved", "BUY 10 decided"]
    # The task is cleared after all, and then the run ends again.
    assert strategy.run(strategy.order())["state"] == "filled"


def test_the_run_learns_where_it_trades_and_the_account_is_masked_outside(strategy: Strategy) -> None:
    strategy.start()
    with open_database().read() as session:
        run = Runs(session).get(*KEY)
    assert run is not None
    assert (run.source, run.account) == ("", "")
    strategy.run(strategy.market_data())
    strategy.run(PortfolioOperator(task_id="portfolio", strategy="bad"))
    with open_database().read() as session:
        run = Runs(session).get(*KEY)
        rows = TrackingOutbox(session).pending(datetime(2100, 1, 1, tzinfo=UTC), *KEY, limit=1000)
        tags = [row.payload["values"] for row in rows if row.kind == "tags"]
        payloads = json.dumps([row.payload for row in rows])
    assert run is not None
    assert (run.source, run.account, run.simulated_clock) == ("simulator:ibkr_default", "DU1234567", True)
    told = [values for values in tags if "ibkr.account" in values]
    assert told == [
        {"ibkr.source": "simulator:ibkr_default", "ibkr.account": "DU*****67", "ibkr.simulated_clock": "true"}
    ]
    assert "DU1234567" not in payloads
