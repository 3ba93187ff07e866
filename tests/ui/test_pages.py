"""The page and the link through a real api-server."""

from __future__ import annotations

import re
from urllib.parse import urljoin

import httpx
import pytest

from airflow_ibkr_plugin.cli.local.layout import ADMIN

PAGE = "/pluginsv2/ibkr/strategies"
CHART = "/pluginsv2/ibkr/charts/1.png"


@pytest.mark.parametrize("path", [PAGE, CHART])
@pytest.mark.parametrize("user", [None, "nobody"])
def test_the_anonymous_and_the_unauthorised_are_sent_away(site, path: str, user: str | None) -> None:
    answer = site.client(user).get(path)
    assert answer.status_code == httpx.codes.FOUND
    assert "momentum" not in answer.text
    assert "PNG" not in answer.text


def test_a_forged_token_is_nobody(site) -> None:
    http = site.client(None)
    http.cookies.set("_token", "e30.e30.forged")
    assert http.get(PAGE).status_code == httpx.codes.FOUND


@pytest.mark.parametrize("user", [ADMIN, "viewer"])
def test_readers_see_every_strategy(site, user: str) -> None:
    answer = site.client(user).get(PAGE)
    assert answer.status_code == httpx.codes.OK
    for strategy in ("forex", "momentum_replay", "multi_symbol", "observe"):
        assert f'href="/airflow/dags/{strategy}"' in answer.text
    assert "XSPX buy 80%" in answer.text
    assert "simulated" in answer.text
    assert "rules, not an LLM" in answer.text
    assert f"{site.layout.mlflow_url}/#/experiments/7/runs/abc123" in answer.text


def test_every_address_on_the_page_stays_below_airflows_own(site) -> None:
    admin = site.client(ADMIN)
    started = admin.post("/api/v2/dags/observe/dagRuns", json={"logical_date": None, "dag_run_id": "manual__by+hand"})
    started.raise_for_status()
    addresses = set(re.findall(r'(?:href|src)="(/[^"]*)"', admin.get(PAGE).text))
    assert "/airflow/dags/observe/runs/manual__by%2Bhand" in addresses
    assert f"/airflow{CHART}" in addresses
    for address in addresses:
        assert admin.get(address.removeprefix("/airflow")).status_code == httpx.codes.OK
        assert address.startswith("/airflow/")


def test_what_an_analyst_wrote_is_escaped(site) -> None:
    text = site.client(ADMIN).get(PAGE).text
    assert "<script>alert(1)" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_the_chart_is_the_picture_that_was_stored(site) -> None:
    answer = site.client("viewer").get(CHART)
    assert answer.headers["content-type"] == "image/png"
    assert answer.content.startswith(b"\x89PNG")
    assert site.client("viewer").get("/pluginsv2/ibkr/charts/999.png").status_code == httpx.codes.NOT_FOUND


def test_a_chart_that_was_altered_in_storage_is_not_shown(site) -> None:
    file = site.layout.home / "ibkr" / "charts" / "momentum_replay" / "test.png"
    picture = file.read_bytes()
    file.write_bytes(picture[:-1])
    try:
        assert site.client("viewer").get(CHART).status_code == httpx.codes.NOT_FOUND
    finally:
        file.write_bytes(picture)


def test_the_page_is_in_the_navigation_for_readers(site) -> None:
    plugins = site.client("viewer").get("/api/v2/plugins").raise_for_status().json()["plugins"]
    (ours,) = [plugin for plugin in plugins if plugin["name"] == "ibkr"]
    (view,) = ours["external_views"]
    base = site.client(None).get("/").text.partition('<base href="')[2].partition('"')[0]
    assert urljoin(base, view["href"]) == f"/airflow{PAGE}"


def test_without_the_trading_database_the_page_says_so_and_airflow_stays_well(site) -> None:
    for path in (PAGE, CHART):
        answer = site.without_database[path]
        assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
        assert "There is no trading database" in answer.text
        assert "airflow ibkr db migrate" in answer.text
    assert site.client(None).get("/api/v2/monitor/health").status_code == httpx.codes.OK
