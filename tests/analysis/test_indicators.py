"""Indicators: values against plain formulas, and clear words for wrong names and parameters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jsonschema
import numpy as np
import pytest

from airflow_ibkr_plugin.analysis.indicators import INDICATORS, columns, compute, list_schema
from airflow_ibkr_plugin.errors import BadBars, ConfigError


def test_sma_is_the_mean_of_the_last_closes(bars: Any) -> None:
    (values,) = compute({"name": "sma", "period": 5}, columns(bars)).lines.values()
    assert np.isnan(values[:4]).all()
    assert values[-1] == pytest.approx(np.mean([b.close for b in bars[-5:]]))


def test_bollinger_stands_by_deviations_around_the_mean(bars: Any) -> None:
    upper, middle, lower = compute({"name": "bollinger", "period": 20, "deviations": 1.5}, columns(bars)).lines.values()
    closes = np.array([b.close for b in bars[-20:]])
    assert middle[-1] == pytest.approx(closes.mean())
    assert upper[-1] == pytest.approx(closes.mean() + 1.5 * closes.std())
    assert lower[-1] == pytest.approx(closes.mean() - 1.5 * closes.std())


def test_lines_of_different_parameters_have_different_names(bars: Any) -> None:
    table = columns(bars)
    narrow = compute({"name": "bollinger"}, table).lines
    wide = compute({"name": "bollinger", "deviations": 2.5}, table).lines
    assert list(narrow) == ["BB 20/2 upper", "BB 20/2 middle", "BB 20/2 lower"]
    assert not narrow.keys() & wide.keys()


def test_rsi_of_rising_prices_is_100_and_has_guides(walk: Any) -> None:
    table = columns(walk(40))
    rising = type(table)(*([np.arange(1.0, 41.0)] * 5))
    rsi = compute({"name": "rsi"}, rising)
    assert rsi.lines["RSI 14"][-1] == pytest.approx(100)
    assert (rsi.panel, rsi.guides) == ("below", (30, 70))


@pytest.mark.parametrize("name", list(INDICATORS))
def test_the_bars_needed_are_exactly_enough(name: str, walk: Any) -> None:
    indicator = INDICATORS[name]
    defaults = {key: schema["default"] for key, schema in indicator.parameters["properties"].items()}
    needed = indicator.bars_needed(defaults)
    lines = compute({"name": name}, columns(walk(needed))).lines
    assert all(np.isfinite(values[-1]) and len(values) == needed for values in lines.values())
    with pytest.raises(BadBars, match=f"{name} needs {needed} bars .* there are {needed - 1}"):
        compute({"name": name}, columns(walk(needed - 1)))


@pytest.mark.parametrize(
    ("spec", "says_so"),
    [
        ({"name": "smaa"}, "no indicator is named 'smaa'. Known: sma, ema"),
        ({}, "no indicator is named None"),
        ({"name": "sma", "period": 0}, "sma: period"),
        ({"name": "sma", "periode": 5}, "periode"),
        ({"name": "macd", "fast": 26, "slow": 12}, "fast 26 is not below slow 12"),
    ],
)
def test_wrong_names_and_parameters_say_what_is_known(bars: Any, spec: dict[str, Any], says_so: str) -> None:
    with pytest.raises(ConfigError, match=says_so):
        compute(spec, columns(bars))


def test_the_schema_takes_what_compute_takes() -> None:
    schema = list_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate([{"name": "sma", "period": 20}, {"name": "macd"}], schema)
    for wrong in ([{"name": "smaa"}], [{"name": "sma", "fast": 3}], [{"period": 3}]):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


@pytest.mark.parametrize("wrong", [{"low": 0.0}, {"open": -1.0}, {"close": float("nan")}, {"volume": float("inf")}])
def test_a_bar_without_real_prices_is_an_error_that_names_it(bars: Any, wrong: dict[str, float]) -> None:
    with pytest.raises(BadBars, match=f"the bar of {bars[7].time.date()}T"):
        columns([*bars[:7], replace(bars[7], **wrong), *bars[8:]])


def test_no_bars_are_an_error() -> None:
    with pytest.raises(BadBars, match="no bars"):
        columns([])
