"""The last lines of a task's log, for alerts."""

from __future__ import annotations

import json
from pathlib import Path


def read_tail(dag_id: str, run_id: str, task_id: str, map_index: int, try_number: int, *, lines: int = 40) -> str:
    """Return the last lines of the log, or '' where it is not on this host (remote logging, another worker).

    Airflow writes one JSON object a line; what is no JSON is passed through.
    """
    from airflow.configuration import conf

    folder = Path(conf.get("logging", "base_log_folder")) / f"dag_id={dag_id}" / f"run_id={run_id}"
    folder = folder / f"task_id={task_id}"
    if map_index >= 0:
        folder = folder / f"map_index={map_index}"
    path = folder / f"attempt={try_number}.log"
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8", errors="replace") as stream:
        return "\n".join(_readable(line.rstrip("\n")) for line in stream.readlines()[-lines:])


def _readable(line: str) -> str:
    try:
        record = json.loads(line)
    except ValueError:
        return line
    if not isinstance(record, dict):
        return line
    text = f"{record.get('timestamp', '')} {str(record.get('level', '')).upper()} {record.get('event', '')}"
    for detail in record.get("error_detail") or []:
        text += f"\n    {detail.get('exc_type')}: {detail.get('exc_value')}"
    return text
