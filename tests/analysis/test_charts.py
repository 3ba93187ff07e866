"""Charts: the same bytes for the same bars, and the picture shows what it should."""

from __future__ import annotations

import hashlib
import io
import math
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread
from matplotlib.text import Text

from airflow_ibkr_plugin.analysis.axis import compact, date_ticks, level_decimals, price_decimals
from airflow_ibkr_plugin.analysis.chart_style import DOWN, FAINT, LABEL_BACK, LINES, UP
from airflow_ibkr_plugin.analysis.charts import ChartImage, _figure, draw_chart
from airflow_ibkr_plugin.analysis.indicators import columns
from airflow_ibkr_plugin.errors import BadBars, ConfigError
from airflow_ibkr_plugin.trading.bars import BAR_SIZES

INDICATORS = [{"name": "sma", "period": 20}, {"name": "bollinger"}, {"name": "rsi"}, {"name": "macd"}]


def draw(bars: Any, **changes: Any) -> ChartImage:
    return draw_chart(bars, **{"symbol": "SPXSIM", "bar_size": "1 day", "indicators": INDICATORS, **changes})


def pixels(image: ChartImage) -> Any:
    """Colours as 0..255, shape (height, width, 3)."""
    return (imread(io.BytesIO(image.png))[:, :, :3] * 255).round().astype(int)


def coloured(image: ChartImage, colour: str) -> Any:
    """Which pixels have this colour, shape (height, width)."""
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return np.abs(pixels(image) - rgb).max(axis=2) <= 3


def count(image: ChartImage, colour: str, *, columns: slice = slice(None)) -> int:
    return int(coloured(image, colour)[:, columns].sum())


def ink(image: ChartImage, *, rows: slice) -> str:
    """An `x` for each column of pixels that is not white, a space for each that is."""
    return "".join("x" if inked else " " for inked in (pixels(image)[rows] < 250).any(axis=(0, 2)))


def scaled(bars: Any, factor: float) -> Any:
    return [
        replace(b, open=b.open * factor, high=b.high * factor, low=b.low * factor, close=b.close * factor) for b in bars
    ]


def test_the_same_bars_give_the_same_bytes(bars: Any) -> None:
    first, second = draw(bars, label="SIMULATED"), draw(bars, label="SIMULATED")
    assert first == second
    assert first.sha256 == hashlib.sha256(first.png).hexdigest()
    assert b"matplotlib" not in first.png.lower()


def test_settings_of_the_user_do_not_change_the_bytes(bars: Any) -> None:
    plain = draw(bars)
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9, "axes.facecolor": "black"}):
        assert draw(bars).sha256 == plain.sha256
        assert matplotlib.rcParams["font.size"] == 20


def test_threads_that_draw_at_once_do_not_disturb_each_other(bars: Any) -> None:
    with matplotlib.rc_context({"font.size": 20}), ThreadPoolExecutor(4) as threads:
        drawn = list(threads.map(lambda _: draw(bars).sha256, range(8)))
        assert matplotlib.rcParams["font.size"] == 20
    assert set(drawn) == {draw(bars).sha256}


@pytest.mark.parametrize("change", ["close", "label", "symbol"])
def test_what_differs_gives_other_bytes(bars: Any, change: str) -> None:
    plain = draw(bars)
    if change == "close":
        other = draw([*bars[:-1], replace(bars[-1], close=bars[-1].low)])
    else:
        other = draw(bars, **{change: "OTHER"})
    assert other.sha256 != plain.sha256


def test_the_picture_has_its_size_and_describes_itself(bars: Any) -> None:
    image = draw(bars, width=1000, height=700, label="SIMULATED")
    assert pixels(image).shape == (700, 1000, 3)
    assert (image.width, image.height, image.bars, image.label) == (1000, 700, 150, "SIMULATED")
    assert (image.first_bar, image.last_bar) == (bars[0].time, bars[-1].time)
    assert image.indicators == tuple(INDICATORS)


def test_older_bars_than_those_shown_warm_the_indicators_up(bars: Any) -> None:
    image = draw(bars, shown=100)
    assert (image.bars, image.first_bar, image.last_bar) == (100, bars[50].time, bars[-1].time)
    assert draw(bars, shown=100, indicators=[]).png == draw(bars[-100:], indicators=[]).png
    for indicator in ({"name": "sma", "period": 30}, {"name": "rsi"}):
        line = LINES[0] if indicator["name"] == "sma" else LINES[2]
        warm, cold = draw(bars, shown=100, indicators=[indicator]), draw(bars[-100:], indicators=[indicator])
        left = {name: count(image, line, columns=slice(12, 80)) for name, image in (("warm", warm), ("cold", cold))}
        # Where the line has not begun there are only the letters and lines of its caption.
        assert left["warm"] > left["cold"] + 20
    assert draw(bars, shown=50, indicators=[{"name": "sma", "period": 120}]).bars == 50


def test_rising_bars_are_green_and_falling_ones_red(walk: Any) -> None:
    flat = [replace(b, volume=0.0) for b in walk(40)]
    up = [replace(b, open=b.low, close=b.high) for b in flat]
    down = [replace(b, open=b.high, close=b.low) for b in flat]
    risen, fallen = draw(up, indicators=[]), draw(down, indicators=[])
    assert count(risen, UP) > 1000
    assert count(fallen, DOWN) > 1000
    assert count(risen, DOWN) < 100 > count(fallen, UP)


def test_the_label_is_printed(bars: Any) -> None:
    assert count(draw(bars, label="SIMULATED"), LABEL_BACK) > 300
    assert count(draw(bars), LABEL_BACK) == 0


@pytest.mark.parametrize("width", [600, 800])
def test_no_text_of_the_header_meets_another(walk: Any, width: int) -> None:
    start = datetime(2023, 12, 29, 14, 30, tzinfo=UTC)
    bars = [replace(b, time=start + i * timedelta(hours=1)) for i, b in enumerate(scaled(walk(150), 4000))]
    image = draw(bars, bar_size="10 mins", symbol="CONTRACT.USD", label="W" * 200, indicators=[], width=width)
    title, period = re.split(" {12,}", ink(image, rows=slice(4, 24)).strip())
    assert 150 < len(title) < len(period)
    label = int(np.argmax(coloured(image, LABEL_BACK).any(axis=0)))
    assert label > width / 2
    assert ink(image, rows=slice(28, 42))[: label - 3].endswith("  ")


@pytest.mark.parametrize("factor", [0.01, 1, 400, 4500])
def test_prices_of_any_size_have_room_on_their_axis(bars: Any, factor: float) -> None:
    assert (pixels(draw(scaled(bars, factor), indicators=[]))[48:, -4:] == 255).all()


@pytest.mark.parametrize("close", [95.2, 95.5, 95.8, 96.1, 96.4, 96.7, 97.0])
def test_no_level_of_the_axis_looks_out_from_under_the_last_price(bars: Any, close: float) -> None:
    image = draw([*bars[:-1], replace(bars[-1], open=close, high=close, low=close, close=close)], indicators=[])
    margin = (pixels(image)[:, 738:796] < 250).any(axis=(1, 2))
    box = np.flatnonzero(coloured(image, UP)[:, 738:796].any(axis=1))
    assert len(box) > 10
    assert not margin[box[0] - 2]
    assert not margin[box[-1] + 2]


def test_volume_is_drawn_to_scale(bars: Any) -> None:
    """The newest of 60 bars has four times the volume of the others, so it stands four times as high."""
    traded = [replace(b, volume=1e6) for b in bars[:59]] + [replace(bars[59], volume=4e6)]
    panel = pixels(draw(traded, indicators=[]))[466:562]
    middle = [round(10 + 724 * (n + 0.7) / 60.4) for n in (40, 59)]
    heights = [int((np.ptp(panel[:, x], axis=1) > 40).sum()) for x in middle]
    assert heights[1] == pytest.approx(4 * heights[0], abs=4)
    assert heights[1] == pytest.approx(96 / 1.25, abs=2)


def test_a_panel_has_its_guides_and_its_line_and_the_prices_a_legend(bars: Any) -> None:
    image = draw(bars, indicators=[{"name": "rsi"}, {"name": "ema"}])
    dashes = coloured(image, FAINT)[:, 12:732].sum(axis=1)
    assert int((dashes > 200).sum()) == 2
    assert count(image, LINES[2], columns=slice(120, 732)) > 300
    swatch = coloured(image, LINES[0])[50:68, 12:40]
    assert int(swatch.sum()) > 15


def test_an_average_shows_over_the_band_around_it(bars: Any) -> None:
    image = draw(bars, indicators=[{"name": "sma", "period": 20}, {"name": "bollinger", "period": 20}])
    assert count(image, LINES[0], columns=slice(120, 730)) > 300


def test_more_panels_than_there_is_room_for_are_an_error(bars: Any) -> None:
    many = [{"name": "rsi", "period": period} for period in range(2, 12)]
    with pytest.raises(ConfigError, match="600 pixels high has no room for 12 panels"):
        draw(bars, indicators=many)
    assert draw(bars, indicators=many, height=1200).bars == 150


def test_dollar_signs_and_underscores_are_no_formulas(bars: Any) -> None:
    draw(bars, symbol="$A_B$^{", label="$\\frac{$")


def test_gaps_in_time_leave_no_holes(bars: Any) -> None:
    """Every bar's column has ink, over weekends and over a year without bars."""
    late = [*bars[:75], *(replace(b, time=b.time + timedelta(days=365)) for b in bars[75:])]
    picture = pixels(draw(late, indicators=[]))
    prices = picture[60:400, 12:732]
    inked = (np.abs(prices - prices[0, 0]).max(axis=2) > 60).any(axis=0)
    bar_width = 720 / 150
    longest_gap = max(len(run) for run in "".join("x" if one else " " for one in inked).split("x"))
    assert longest_gap <= math.ceil(bar_width)


@pytest.mark.parametrize("bar_size", ["30 secs", "5 mins", "1 hour", "1 day", "1 week", "1 month"])
def test_any_bar_size_is_drawn(walk: Any, bar_size: str) -> None:
    start = datetime(2020, 1, 1, tzinfo=UTC)
    bars = [replace(b, time=start + i * BAR_SIZES[bar_size]) for i, b in enumerate(walk(60))]
    assert draw(bars, bar_size=bar_size).bars == 60


def test_prices_that_stand_still_are_drawn(bars: Any) -> None:
    flat = [replace(b, open=5.0, high=5.0, low=5.0, close=5.0, volume=0.0) for b in bars]
    assert count(draw(flat, indicators=[{"name": "sma"}, {"name": "rsi"}]), UP) > 100


@pytest.mark.parametrize("number", [0, 1])
def test_too_few_bars_are_an_error(bars: Any, number: int) -> None:
    with pytest.raises(BadBars, match=f"at least 2 bars and there are {number}"):
        draw(bars[:number])


def test_two_bars_are_enough(bars: Any) -> None:
    assert draw(bars[:2], indicators=[]).bars == 2


def test_too_few_bars_for_an_indicator_are_an_error(bars: Any) -> None:
    with pytest.raises(BadBars, match="sma needs 20 bars"):
        draw(bars[:19])


def test_bars_out_of_order_are_an_error(bars: Any) -> None:
    with pytest.raises(BadBars, match="not in order"):
        draw([*bars[:5], bars[4]], indicators=[])


@pytest.mark.parametrize("changes", [{"bar_size": "7 mins"}, {"width": 599}, {"height": 100000}])
def test_what_cannot_be_drawn_is_a_configuration_error(bars: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        draw(bars, **changes)


@given(
    start=st.integers(631_152_000, 1_893_456_000).map(lambda s: datetime.fromtimestamp(s, UTC)),
    step=st.sampled_from([1, 30, 60, 300, 3600, 14400, 86400, 604800, 2678400]),
    number=st.integers(2, 400),
)
def test_ticks_are_few_ordered_and_named(start: datetime, step: int, number: int) -> None:
    times = [start + timedelta(seconds=step) * i for i in range(number)]
    ticks = date_ticks(times, intraday=step < 86400)
    places = [place for place, _ in ticks]
    assert 1 <= len(ticks) <= 8
    assert places == sorted(set(places))
    assert all(0 <= place < number and label for place, label in ticks)
    assert len(ticks) >= 4 or number <= 8


def test_ticks_stand_where_months_begin_and_name_the_year_once(bars: Any) -> None:
    ticks = date_ticks([b.time for b in bars], intraday=False)
    assert [label for _, label in ticks] == ["Jan\n2024", "Feb", "Mar", "Apr", "May", "Jun", "Jul"]
    assert all(bars[place].time.month != bars[place - 1].time.month for place, _ in ticks[1:])


def test_a_first_bar_just_before_a_round_time_has_no_label_to_crowd_the_next(bars: Any) -> None:
    late = [b.time for b in bars if b.time >= datetime(2024, 1, 30, tzinfo=UTC)]
    assert [label for _, label in date_ticks(late, intraday=False)][:2] == ["Feb\n2024", "Mar"]


def test_where_days_are_too_many_and_weeks_too_few_every_other_day_is_named() -> None:
    times = [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=n) for n in range(24 * 10)]
    labels = [label for _, label in date_ticks(times, intraday=True)]
    assert labels == ["01 Jan\n2024", "03 Jan", "05 Jan", "07 Jan", "09 Jan"]


def test_decimals_of_levels_fit_the_range_of_prices() -> None:
    assert level_decimals(2300, 3000) == 2
    assert level_decimals(1.0800, 1.0870) == 5
    assert level_decimals(100, 100) >= 2


@pytest.mark.parametrize(
    ("prices", "decimals"),
    [
        ([], 2),
        ([98.0, 98.5], 2),
        ([98.49, 98.485, 98.48], 3),
        ([27.3325], 4),
        ([1.08512, 1.0851], 5),
        ([1.085125], 6),
        ([0.00001234], 8),
        ([0.000000001], 8),
        ([2488.830078, 1274.859985], 2),  # 2488.83 and 1274.86 in single precision
        ([-0.5, -0.125], 3),
    ],
)
def test_prices_have_the_decimals_that_they_need(prices: list[float], decimals: int) -> None:
    assert price_decimals(prices) == decimals


def test_a_narrow_range_invents_no_decimals(bars: Any) -> None:
    cents = [98.40, 98.55, 98.47, 98.44]
    narrow = [replace(b, open=p, high=p + 0.02, low=p - 0.02, close=p) for b, p in zip(bars, cents * 20, strict=False)]
    figure = _figure(narrow, columns(narrow), [], "SPXSIM", "1 day", "", (1024, 768))
    figure.canvas.draw()
    written = " ".join(text.get_text() for text in figure.findobj(Text))
    prices = re.findall(r"\b98\.\d+", written)
    assert "98.44" in prices
    assert "98.40" in prices
    assert {len(price) for price in prices} == {5}


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (950, "950"),
        (999.4, "999"),
        (999.5, "1K"),
        (999_499, "999K"),
        (999_500, "1M"),
        (1_250_000, "1.25M"),
        (3.44e9, "3.44B"),
        (9.999e11, "1T"),
    ],
)
def test_volumes_are_compact(number: float, text: str) -> None:
    assert compact(number) == text


def test_what_dag_parsing_may_import_is_light() -> None:
    heavy = ("numpy", "talib", "matplotlib", "pydantic_ai", "airflow", "pandas", "jsonschema")
    program = (
        "import sys\n"
        "from airflow_ibkr_plugin.analysis import catalogue, charts, chart_storage, indicators\n"
        "catalogue.prompts(); catalogue.analysts(); indicators.list_schema()\n"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
