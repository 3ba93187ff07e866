from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_ibkr_plugin.store.bars import Bars
from airflow_ibkr_plugin.store.charts import Charts
from airflow_ibkr_plugin.store.contract_pins import ContractPins
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.signals import Signals
from airflow_ibkr_plugin.trading.bars import Bar
from airflow_ibkr_plugin.trading.instruments import Instrument
from airflow_ibkr_plugin.trading.signals import Action

SERIES = ("simulator:ibkr_default", 756733, "1 day", "TRADES", True)
FLOATS = st.floats(min_value=0, max_value=1e12, allow_nan=False)


def test_pins(database: Database, now: datetime) -> None:
    spy = Instrument(symbol="SPY", con_id=756733, min_tick=Decimal("0.01"), time_zone="US/Eastern")
    with database.write() as session:
        pins = ContractPins(session)
        assert pins.get("a", spy.key) is None
        pins.pin("a", spy.key, spy, now)
        assert pins.get("a", spy.key) == spy
        pins.pin("a", spy.key, replace(spy, liquid_hours="20260105:0930-1600"), now)
        assert pins.get("a", spy.key) == replace(spy, liquid_hours="20260105:0930-1600")
        assert pins.get("b", spy.key) is None


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batches=st.lists(
        st.dictionaries(st.integers(0, 30), st.tuples(*[FLOATS] * 6, st.integers(0, 2**40)), max_size=10), max_size=4
    )
)
def test_bars_are_the_last_saved(database: Database, now: datetime, batches: list[dict[int, tuple[Any, ...]]]) -> None:
    expected: dict[datetime, Bar] = {}
    with database.write() as session:
        bars = Bars(session)
        bars.delete(*SERIES)
        for batch in batches:
            given_bars = [Bar(now + timedelta(days=day), *numbers) for day, numbers in batch.items()]
            assert bars.save(*SERIES, given_bars) == len(given_bars)
            expected |= {bar.time: bar for bar in given_bars}
    with database.read() as session:
        bars = Bars(session)
        times = sorted(expected)
        assert bars.load(*SERIES, now, now + timedelta(days=40)) == [expected[t] for t in times]
        assert bars.span(*SERIES) == ((times[0], times[-1], len(times)) if times else None)
        if times:  # both ends are included
            assert bars.load(*SERIES, times[0], times[0]) == [expected[times[0]]]


def test_series_are_apart(database: Database, now: datetime) -> None:
    bar = Bar(now, 1, 2, 0.5, 1.5)
    others = [
        ("paper:x", *SERIES[1:]),
        (SERIES[0], 1, *SERIES[2:]),
        (*SERIES[:2], "1 hour", *SERIES[3:]),
        (*SERIES[:3], "MIDPOINT", True),
        (*SERIES[:4], False),
    ]
    with database.write() as session:
        bars = Bars(session)
        for series in (SERIES, *others):
            bars.save(*series, [bar])
        assert bars.delete(*SERIES) == 1
        assert bars.span(*SERIES) is None
        assert [bars.span(*series) for series in others] == [(now, now, 1)] * 5


def test_many_bars_at_once(database: Database, now: datetime) -> None:
    many = [Bar(now + timedelta(minutes=i), i, i, i, i) for i in range(20_000)]
    with database.write() as session:
        assert Bars(session).save(*SERIES, many) == 20_000
    with database.read() as session:
        assert Bars(session).load(*SERIES, many[0].time, many[-1].time) == many


def chart(now: datetime, **changes: Any) -> dict[str, Any]:
    return {
        "dag_id": "d",
        "run_id": "r1",
        "task_id": "chart",
        "symbol": "SPY",
        "con_id": 756733,
        "source": SERIES[0],
        "url": "file:///charts/1.png",
        "sha256": "ab" * 32,
        "size_bytes": 1234,
        "width": 1200,
        "height": 800,
        "bar_size": "1 day",
        "first_bar": now - timedelta(days=90),
        "last_bar": now,
        "indicators": ["sma_20", {"name": "rsi", "period": 14}],
        "created_at": now,
    } | changes


def test_charts(database: Database, now: datetime) -> None:
    with database.write() as session:
        charts = Charts(session)
        first = charts.add(**chart(now))
        second = charts.add(**chart(now, run_id="r2"))
    with database.read() as session:
        charts = Charts(session)
        stored = charts.get(first.id)
        assert stored is not None
        assert {name: getattr(stored, name) for name in chart(now)} == chart(now)
        assert charts.latest("d", "SPY").id == second.id  # type: ignore[union-attr]
        assert charts.latest("d", "QQQ") is None
        assert [row.id for row in charts.for_run("d", "r1")] == [first.id]
        assert charts.get(4711) is None


def test_signals(database: Database, now: datetime) -> None:
    fields: dict[str, Any] = {
        "dag_id": "d",
        "run_id": "r1",
        "task_id": "signal",
        "strategy": "momentum",
        "symbol": "SPY",
        "con_id": 756733,
        "source": SERIES[0],
        "action": "buy",
        "confidence": 0.7,
        "entry": 100.25,
        "stop": None,
        "target": None,
        "horizon_days": 5,
        "rationale": "up",
        "analyst": "rules:momentum",
        "model": "rules",
        "is_llm": False,
        "prompt_name": "",
        "prompt_version": "",
        "prompt_sha256": "",
        "as_of": now,
        "raw": "{}",
        "usage": {"input_tokens": 12.0},
        "created_at": now,
    }
    with database.write() as session:
        signals = Signals(session)
        picture = Charts(session).add(**chart(now))
        first = signals.add(**fields, chart_id=picture.id)
        second = signals.add(**(fields | {"symbol": "QQQ", "action": Action.HOLD}))
    with database.read() as session:
        signals = Signals(session)
        stored = signals.get(first.id)
        assert stored is not None
        assert {name: getattr(stored, name) for name in fields} == fields
        assert stored.action is Action.BUY
        assert stored.chart_id == picture.id
        assert signals.latest("d").id == second.id  # type: ignore[union-attr]
        assert signals.latest("d", "SPY").id == first.id  # type: ignore[union-attr]
        assert signals.latest("e") is None
        assert [row.id for row in signals.for_run("d", "r1")] == [first.id, second.id]
        assert signals.for_run("d", "r2") == []
