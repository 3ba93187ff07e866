from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.hooks.ibkr import IBKRHook, parse_client_ids


def connection(monkeypatch: pytest.MonkeyPatch, **fields: object) -> IBKRHook:
    monkeypatch.setenv("AIRFLOW_CONN_TEST_GATEWAY", json.dumps({"conn_type": "ibkr", **fields}))
    return IBKRHook("test_gateway")


def test_every_field_of_the_form_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"account": "DU1", "trading_mode": "live", "client_ids": "3-5", "ibc_port": 7462, "timeout": 4}
    spec = connection(monkeypatch, host="gateway", port=4001, extra=extra).get_conn()
    assert (spec.conn_id, spec.host, spec.port) == ("test_gateway", "gateway", 4001)
    assert (spec.account, spec.live, spec.ibc_port, spec.timeout) == ("DU1", True, 7462, 4.0)
    assert list(spec.client_ids) == [3, 4, 5]


def test_an_empty_form_means_paper_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = connection(monkeypatch).get_conn()
    assert (spec.host, spec.port, spec.live, spec.account, spec.ibc_port) == ("127.0.0.1", 4002, False, "", None)


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"trading_mode": "real"}, "trading_mode"),
        ({"ibc_port": "x"}, "ibc_port"),
        ({"client_ids": "0-5"}, "0-5"),
        ({"timeout": "soon"}, "timeout"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": "nan"}, "timeout"),
        ({"timeout": "inf"}, "timeout"),
    ],
)
def test_a_wrong_field_is_named(monkeypatch: pytest.MonkeyPatch, extra: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        connection(monkeypatch, extra=extra).get_conn()


@given(st.integers(1, 10_000), st.integers(0, 1000))
def test_client_ids_include_both_ends(first: int, more: int) -> None:
    ids = parse_client_ids(f"{first}-{first + more}")
    assert (ids[0], ids[-1]) == (first, first + more)


@pytest.mark.parametrize("text", ["", "a-b", "5-3", "-1", "0", "1-2-3"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_client_ids(text)


def test_the_test_button_says_that_nobody_answers(monkeypatch: pytest.MonkeyPatch, unused_port: int) -> None:
    hook = connection(monkeypatch, port=unused_port, extra={"timeout": 2})
    valid, message = hook.test_connection()
    assert not valid
    assert str(unused_port) in message
