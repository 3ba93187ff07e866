from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name, _validate_param_name

from airflow_ibkr_plugin.tracking.names import MAX_NAME, clean_name, clip, milliseconds


@given(st.text(max_size=400))
def test_mlflow_accepts_every_cleaned_name(name: str) -> None:
    try:
        clean = clean_name(name)
    except ValueError:
        return
    assert len(clean) <= MAX_NAME
    _validate_metric_name(clean)
    _validate_param_name(clean)
    assert clean_name(clean) == clean


@pytest.mark.parametrize("name", ["signal/EUR/USD/confidence", "task/symbol.order/0/duration_s", "a b:c-d_e.f"])
def test_a_legal_name_stays(name: str) -> None:
    assert clean_name(name) == name


def test_illegal_characters_and_path_segments() -> None:
    assert clean_name("/risk@max//../é#!/x") == "risk_max/é__/x"


def test_two_long_names_stay_two() -> None:
    assert clean_name("x" * 300 + "a") != clean_name("x" * 300 + "b")
    assert clean_name("x" * 300 + "@") != clean_name("x" * 300 + "#")


def test_a_name_is_cut_only_where_it_must_be() -> None:
    assert clean_name("x" * MAX_NAME) == "x" * MAX_NAME
    cut = clean_name("a" + "x" * MAX_NAME)
    assert len(cut) == MAX_NAME
    assert cut.startswith("a" + "x" * (MAX_NAME - 14) + "-")


@pytest.mark.parametrize("name", ["", "/", "..", "  "])
def test_no_name_at_all(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be a name"):
        clean_name(name)


def test_clip_says_how_long_it_was() -> None:
    cut = clip("x" * 7000, 6000)
    assert len(cut) == 6000
    assert cut.endswith("[cut; 7000 characters in all]")
    assert clip("x" * 6000, 6000) == "x" * 6000


def test_milliseconds_need_a_time_zone() -> None:
    assert milliseconds(datetime(1970, 1, 1, 0, 0, 1, 500000, tzinfo=UTC)) == 1500
    with pytest.raises(ValueError, match="time zone"):
        milliseconds(datetime(2026, 1, 1))  # noqa: DTZ001
