"""What an LLM reads beside the picture: the bars as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from airflow_ibkr_plugin.analysis.prompts import TREND_FOLLOWING
from airflow_ibkr_plugin.analysis.question import LISTED_BARS, describe
from airflow_ibkr_plugin.errors import BadBars
from airflow_ibkr_plugin.trading.analysts import AnalysisRequest
from airflow_ibkr_plugin.trading.bars import Bar

START = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)


def told(bars: Sequence[Bar], bar_size: str = "1 day") -> list[str]:
    request = AnalysisRequest(
        symbol="SPXSIM",
        bars=bars,
        bar_size=bar_size,
        chart_png=b"",
        chart_url="file:///secret-folder/chart.png",
        chart_sha256="",
        prompt=TREND_FOLLOWING,
        as_of=START,
        parameters={},
    )
    return describe(request).splitlines()


def test_the_bars_are_told_in_full() -> None:
    bars = [
        Bar(START, 98.4, 98.6, 98.3, 98.5, 1200.4),
        Bar(START + timedelta(minutes=30), 98.5, 98.55, 98.2, 98.25, 900.0),
    ]
    assert told(bars, "30 mins") == [
        "symbol: SPXSIM",
        "bar size: 30 mins (times are UTC)",
        "bars on the chart: 2, from 2026-03-02 14:30 to 2026-03-02 15:00",
        "highest 98.60, lowest 98.20, last close 98.25",
        "the last 2 bars:",
        "time,open,high,low,close,volume",
        "2026-03-02 14:30,98.40,98.60,98.30,98.50,1200",
        "2026-03-02 15:00,98.50,98.55,98.20,98.25,900",
    ]


def test_prices_keep_the_decimals_that_the_bars_have() -> None:
    assert told([Bar(START, 1.085, 1.08655, 1.085, 1.086)])[-1] == "2026-03-02,1.08500,1.08655,1.08500,1.08600,0"


def test_only_the_newest_are_listed_and_all_count() -> None:
    first = Bar(START, 100, 500, 50, 100, 1)
    later = [replace(first, time=START + timedelta(days=n), high=101, low=99) for n in range(1, LISTED_BARS + 1)]
    lines = told([first, *later])
    assert f"bars on the chart: {LISTED_BARS + 1}, from 2026-03-02 to 2026-04-11" in lines
    assert "highest 500.00, lowest 50.00, last close 100.00" in lines
    assert f"the last {LISTED_BARS} bars:" in lines
    listed = lines[lines.index("time,open,high,low,close,volume") + 1 :]
    assert len(listed) == LISTED_BARS
    assert listed[0].startswith("2026-03-03,")
    assert listed[-1].startswith("2026-04-11,")


def test_no_bars_are_no_question() -> None:
    with pytest.raises(BadBars, match="no bars of SPXSIM"):
        told([])
