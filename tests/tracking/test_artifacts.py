from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from airflow_ibkr_plugin.errors import TrackingRefused
from airflow_ibkr_plugin.tracking.artifacts import read_artifact


def test_the_recorded_bytes_are_read(tmp_path: Path) -> None:
    (tmp_path / "chart.png").write_bytes(b"png")
    assert read_artifact(f"file://{tmp_path}/chart.png", hashlib.sha256(b"png").hexdigest()) == b"png"


@pytest.mark.parametrize("url", ["file:///no/such/file.png", "nosuchscheme://bucket/chart.png"])
def test_what_can_never_be_read_is_refused_so_that_later_records_go_on(url: str) -> None:
    with pytest.raises(TrackingRefused):
        read_artifact(url, "0")


def test_other_bytes_than_recorded_are_refused(tmp_path: Path) -> None:
    (tmp_path / "chart.png").write_bytes(b"other")
    with pytest.raises(TrackingRefused, match="other bytes"):
        read_artifact(f"file://{tmp_path}/chart.png", "0" * 64)
