"""Charts in ObjectStorage: whole or absent, and never another one than was drawn."""

from __future__ import annotations

import errno
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from airflow_ibkr_plugin.analysis import chart_storage
from airflow_ibkr_plugin.analysis.chart_storage import load_chart, save_chart
from airflow_ibkr_plugin.analysis.charts import ChartImage, draw_chart
from airflow_ibkr_plugin.errors import ChartMissing, ConfigError, Family, StoreError, StoreFull


@pytest.fixture
def image(bars: Any) -> ChartImage:
    return draw_chart(bars, symbol="SPXSIM", bar_size="1 day")


@pytest.fixture
def base(tmp_path: Path) -> str:
    return f"file://{tmp_path}/charts"


def test_a_chart_comes_back_as_it_was(image: ChartImage, base: str, tmp_path: Path) -> None:
    url = save_chart(image, base, "dag/SPXSIM-1.png")
    assert url == f"{base}/dag/SPXSIM-1.png"
    assert load_chart(url, image.sha256) == image.png
    assert [p.name for p in (tmp_path / "charts/dag").iterdir()] == ["SPXSIM-1.png"]


def test_a_chart_goes_to_an_object_store_too(image: ChartImage) -> None:
    url = save_chart(image, "memory://charts", "dag/SPXSIM-1.png")
    assert load_chart(url, image.sha256) == image.png


def test_saving_again_is_harmless(image: ChartImage, base: str) -> None:
    assert save_chart(image, base, "a.png") == save_chart(image, base + "/", "a.png")


def test_who_reads_while_a_chart_is_replaced_reads_a_whole_one(image: ChartImage, base: str, tmp_path: Path) -> None:
    save_chart(image, base, "a.png")
    with (tmp_path / "charts/a.png").open("rb") as reader:
        first_half = reader.read(len(image.png) // 2)
        save_chart(replace(image, png=bytes(len(image.png))), base, "a.png")
        assert first_half + reader.read() == image.png


def test_a_missing_chart_says_where_and_what_to_do(image: ChartImage, base: str) -> None:
    url = save_chart(image, base, "a.png")
    with pytest.raises(ChartMissing, match=r"no chart at file://.*/b\.png.*Clear the chart task") as caught:
        load_chart(url.replace("a.png", "b.png"), image.sha256)
    assert caught.value.family is Family.FATAL


@pytest.mark.parametrize("place", ["dag", "dag/a.png/b.png"])
def test_where_a_folder_or_a_file_stands_in_the_way_there_is_no_chart(image: ChartImage, base: str, place: str) -> None:
    save_chart(image, base, "dag/a.png")
    with pytest.raises(ChartMissing, match="there is no chart"):
        load_chart(f"{base}/{place}", image.sha256)


def test_a_place_that_may_not_be_written_says_so_and_nothing_is_left(
    image: ChartImage, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:  # root, as whom tests may run, is refused nothing
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(chart_storage.os, "replace", refuse)
    with pytest.raises(ConfigError, match=r"no permission for file://.*charts_url"):
        save_chart(image, base, "a.png")
    assert list((tmp_path / "charts").iterdir()) == []


@pytest.mark.parametrize("change", ["altered", "cut", "emptied"])
def test_an_altered_or_partial_chart_is_not_read(image: ChartImage, base: str, tmp_path: Path, change: str) -> None:
    url = save_chart(image, base, "a.png")
    wrong = {"altered": image.png[:-1] + b"x", "cut": image.png[:100], "emptied": b""}[change]
    (tmp_path / "charts/a.png").write_bytes(wrong)
    with pytest.raises(ChartMissing, match="not the one that was drawn") as caught:
        load_chart(url, image.sha256)
    assert url in str(caught.value)
    assert hashlib.sha256(wrong).hexdigest() in str(caught.value)


def test_a_full_disk_says_so_and_leaves_the_old_chart(
    image: ChartImage, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = save_chart(image, base, "a.png")
    # The kernel's own full device stands where the next file's first bytes would go.
    name = UUID(int=1)
    monkeypatch.setattr(chart_storage, "uuid4", lambda: name)
    (tmp_path / f"charts/.{name.hex}.part").symlink_to("/dev/full")
    with pytest.raises(StoreFull, match="Free space") as caught:
        save_chart(image, base, "a.png")
    assert caught.value.family is Family.NEEDS_HUMAN
    assert load_chart(url, image.sha256) == image.png
    assert [p.name for p in (tmp_path / "charts").iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", ["../a.png", "a/../../b.png", "/etc/a.png", "a//b.png", "", "."])
def test_a_name_cannot_leave_the_folder(image: ChartImage, base: str, name: str) -> None:
    with pytest.raises(ConfigError, match="not a name for a chart"):
        save_chart(image, base, name)


def test_characters_of_urls_lose_their_meaning(image: ChartImage, base: str) -> None:
    url = save_chart(image, base, "dag/BRK B#?%20@x.png")
    assert url == f"{base}/dag/BRK_B___20_x.png"
    assert load_chart(url, image.sha256) == image.png


@pytest.mark.parametrize("base_url", ["nosuch://bucket", "data:///charts", "http://127.0.0.1:1/charts", "charts", ""])
def test_a_place_that_cannot_hold_charts_is_a_configuration_error(
    image: ChartImage, base_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="charts_url"):
        save_chart(image, base_url, "a.png")
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_should_be_is_an_error_that_names_the_place(
    image: ChartImage, base: str, tmp_path: Path
) -> None:
    (tmp_path / "charts").write_text("not a folder")
    with pytest.raises(StoreError, match="charts_url") as caught:
        save_chart(image, base, "a.png")
    assert base in str(caught.value)
