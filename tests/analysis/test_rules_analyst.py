"""The offline rules: always an answer that holds, from the bars alone."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_ibkr_plugin.analysis import parameters
from airflow_ibkr_plugin.analysis.catalogue import analysts
from airflow_ibkr_plugin.analysis.prompts import TREND_FOLLOWING
from airflow_ibkr_plugin.errors import BadBars, ConfigError
from airflow_ibkr_plugin.trading.analysts import AnalysisRequest, AnalystAnswer
from airflow_ibkr_plugin.trading.bars import Bar
from airflow_ibkr_plugin.trading.signals import Action, validate_signal

START = datetime(2024, 1, 1, tzinfo=UTC)


def ask(bars: list[Bar], **given_parameters: Any) -> AnalystAnswer:
    jsonschema.validate(given_parameters, parameters.RULES)
    analyst = next(a for a in analysts() if a.name == "rules").factory()
    return analyst.analyse(
        AnalysisRequest(
            symbol="SPXSIM",
            bars=bars,
            bar_size="1 day",
            chart_png=b"",
            chart_url="file:///nowhere.png",
            chart_sha256="",
            prompt=TREND_FOLLOWING,
            as_of=bars[-1].time if bars else START,
            parameters=given_parameters,
        )
    )


def closes(*prices: float, wick: float = 0.002) -> list[Bar]:
    """Daily bars through these closes."""
    before = prices[0]
    bars = []
    for i, price in enumerate(prices):
        top, bottom = max(before, price) * (1 + wick), min(before, price) * (1 - wick)
        bars.append(Bar(START + timedelta(days=i), before, top, bottom, price, 1000.0))
        before = price
    return bars


RISING = [100 * 1.004**i for i in range(60)]
FALLING = RISING[::-1]


@pytest.mark.parametrize(("prices", "action"), [(RISING, Action.BUY), (FALLING, Action.SELL)])
def test_momentum_goes_with_the_trend(prices: list[float], action: Action) -> None:
    signal = ask(closes(*prices)).signal
    assert signal.action is action
    assert signal.entry == pytest.approx(prices[-1])
    assert signal.stop is not None
    assert signal.target is not None
    assert (signal.target - signal.entry) / (signal.entry - signal.stop) == pytest.approx(3 / 2)
    assert 0.5 < signal.confidence <= 0.9


@pytest.mark.parametrize(("jump", "action"), [(1.06, Action.SELL), (0.94, Action.BUY)])
def test_mean_reversion_fades_a_stretch_back_to_the_average(jump: float, action: Action) -> None:
    prices = [100 + (i % 2) * 0.5 for i in range(59)] + [100 * jump]
    signal = ask(closes(*prices), strategy="mean_reversion").signal
    assert signal.action is action
    assert signal.target == pytest.approx(sum(prices[-30:]) / 30)


@pytest.mark.parametrize("strategy", ["momentum", "mean_reversion"])
@pytest.mark.parametrize("price", [0.1, 1.08512, 100.0, 4321.1])
def test_prices_that_stand_still_are_held(strategy: str, price: float) -> None:
    signal = ask(closes(*[price] * 60, wick=0.0), strategy=strategy).signal
    assert signal.action is Action.HOLD
    assert signal.entry is signal.stop is signal.target is None
    assert "do not move" in signal.rationale


@pytest.mark.parametrize(("wick", "is_at_most"), [(0.01, False), (0.001, True)])
def test_confidence_grows_with_what_lies_beyond_the_threshold_up_to_a_limit(wick: float, is_at_most: bool) -> None:
    answer = ask(closes(*RISING[:31], wick=wick), threshold=1.0)
    figures = json.loads(answer.raw)["figures"]
    beyond = (figures["fast"] - figures["slow"]) / figures["atr"] - 1.0
    assert (beyond > 2) is is_at_most
    assert answer.signal.confidence == pytest.approx(0.9 if is_at_most else 0.5 + 0.2 * beyond, abs=1e-4)


def test_what_lies_within_the_threshold_is_held() -> None:
    assert ask(closes(*RISING), threshold=20).signal.action is Action.HOLD


def test_exactly_at_the_threshold_is_within_it() -> None:
    figures = json.loads(ask(closes(*RISING)).raw)["figures"]
    reach = (figures["fast"] - figures["slow"]) / figures["atr"]
    assert ask(closes(*RISING), threshold=reach).signal.action is Action.HOLD
    assert ask(closes(*RISING), threshold=math.nextafter(reach, 0)).signal.action is Action.BUY


def test_a_market_too_wild_for_a_stop_is_held_and_says_so() -> None:
    prices = [100 * 1.3**i for i in range(60)]
    signal = ask(closes(*prices), stop_atr=10).signal
    assert signal.action is Action.HOLD
    assert "too far from the market" in signal.rationale


def test_it_says_that_it_is_rules_and_measures_no_usage() -> None:
    answer = ask(closes(*RISING))
    assert answer.model == "offline-rules-v1"
    assert answer.usage == {}
    assert answer.signal.analyst == "rules:momentum"
    assert "not an LLM" in answer.signal.rationale
    raw = json.loads(answer.raw)
    assert "not an LLM" in raw["note"]
    assert raw["figures"]["slow"] == pytest.approx(sum(RISING[-30:]) / 30)
    assert raw["signal"] == answer.signal.to_dict()


def test_the_same_bars_give_the_same_answer_and_the_picture_none() -> None:
    assert ask(closes(*RISING)) == ask(closes(*RISING))


def test_too_little_history_is_an_error_and_no_hold() -> None:
    with pytest.raises(BadBars, match="need 30 bars of SPXSIM and there are 29"):
        ask(closes(*RISING[:29]))
    assert ask(closes(*RISING[:30])).signal.action is Action.BUY


def test_fast_must_be_below_slow() -> None:
    with pytest.raises(ConfigError, match="fast 30 is not below slow 30"):
        ask(closes(*RISING), fast=30)


def test_a_price_that_is_no_number_is_an_error() -> None:
    bars = closes(*RISING)
    bars[40] = replace(bars[40], close=float("nan"))
    with pytest.raises(BadBars, match="not a positive number"):
        ask(bars)


@settings(max_examples=150)
@given(
    start=st.floats(0.01, 1e5),
    moves=st.lists(st.floats(-0.4, 0.6), min_size=40, max_size=80),
    strategy=st.sampled_from(["momentum", "mean_reversion"]),
    threshold=st.floats(0, 5),
    stop=st.floats(0.1, 20),
    target=st.floats(0.1, 40),
    wick=st.floats(0, 0.3),
)
def test_any_valid_bars_give_a_valid_signal(
    start: float, moves: list[float], strategy: str, threshold: float, stop: float, target: float, wick: float
) -> None:
    prices = [start]
    for move in moves:
        prices.append(min(max(prices[-1] * (1 + move), 1e-4), 1e8))
    answer = ask(closes(*prices, wick=wick), strategy=strategy, threshold=threshold, stop_atr=stop, target_atr=target)
    assert validate_signal(answer.signal, reference_price=prices[-1], symbol="SPXSIM") is answer.signal
    assert json.loads(answer.raw)
