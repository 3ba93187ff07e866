from __future__ import annotations

import json
from pathlib import Path

import pytest

from airflow_ibkr_plugin.operators.log_tail import read_tail


@pytest.fixture
def log_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AIRFLOW__LOGGING__BASE_LOG_FOLDER", str(tmp_path))
    return tmp_path


def test_the_tail_is_readable_text(log_folder: Path) -> None:
    folder = log_folder / "dag_id=d" / "run_id=r" / "task_id=symbol.order" / "map_index=1"
    folder.mkdir(parents=True)
    records = [{"timestamp": "t", "level": "info", "event": f"line {n}"} for n in range(50)]
    records.append(
        {"timestamp": "t", "level": "error", "event": "failed", "error_detail": [{"exc_type": "E", "exc_value": "why"}]}
    )
    text = "\n".join(json.dumps(record) for record in records) + "\nplain text\n"
    (folder / "attempt=2.log").write_text(text)
    tail = read_tail("d", "r", "symbol.order", 1, 2, lines=3).splitlines()
    assert tail == ["t INFO line 49", "t ERROR failed", "    E: why", "plain text"]


def test_a_log_on_another_host_is_no_error(log_folder: Path) -> None:
    assert read_tail("d", "r", "t", -1, 1) == ""
