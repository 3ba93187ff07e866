from __future__ import annotations

from pathlib import Path

import pytest

from airflow_ibkr_plugin import settings
from airflow_ibkr_plugin.errors import ConfigError

DOCS = Path(__file__).parents[1] / "docs" / "settings.md"


@pytest.mark.parametrize("option", settings.OPTIONS)
def test_every_option_is_documented_as_it_is(option: str) -> None:
    default = settings.OPTIONS[option]["default"]
    row = f"| `{option}` | {f'`{default}`' if default else 'empty'} | {settings.OPTIONS[option]['description']} |"
    assert row in DOCS.read_text()


def test_defaults_lie_in_airflow_home(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    loaded = settings.load()
    assert loaded.sql_alchemy_conn == f"sqlite:///{os.environ['AIRFLOW_HOME']}/ibkr/trading.db"
    assert not loaded.allow_live


@pytest.mark.parametrize(
    ("option", "value"),
    [("ALLOW_LIVE", "yes please"), ("MLFLOW_TRACKING_URI", "/some/folder"), ("RECONCILE_MAX_AGE", "0")],
)
def test_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch, option: str, value: str) -> None:
    monkeypatch.setenv(f"AIRFLOW__IBKR__{option}", value)
    with pytest.raises(ConfigError, match=option.lower()):
        settings.load()


def test_the_ui_address_is_the_servers_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__IBKR__MLFLOW_TRACKING_URI", "http://mlflow:5500/")
    assert settings.load().mlflow_ui_url == "http://mlflow:5500"
    monkeypatch.setenv("AIRFLOW__IBKR__MLFLOW_UI_URL", "https://mlflow.example.com/")
    assert settings.load().mlflow_ui_url == "https://mlflow.example.com"
    assert settings.load().mlflow_tracking_uri == "http://mlflow:5500"
