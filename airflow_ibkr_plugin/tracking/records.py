"""What a run puts on record: plain functions that add to the tracking outbox in the caller's own transaction.

None of them talks to MLflow, so none can fail or slow down the work that it records; the writer sends the rows later,
with the timestamps given here. `key` is always (dag_id, run_id). All times are aware and become UTC milliseconds.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from airflow_ibkr_plugin.tracking.names import MAX_PARAM_VALUE, MAX_TAG_VALUE, clean_name, clip, milliseconds

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from airflow_ibkr_plugin.store.models.runs import Run

log = logging.getLogger(__name__)

RunKey = tuple[str, str]
EndStatus = Literal["FINISHED", "FAILED"]


class Kind(StrEnum):
    """What a row of the outbox holds; its payload in brackets."""

    BEGIN = "begin"  # {}
    PARAMS = "params"  # {"values": {name: value}}
    METRICS = "metrics"  # {"values": {name: value}, "ms": ms since the epoch, "step": step}
    TAGS = "tags"  # {"values": {name: value}}
    ARTIFACT = "artifact"  # {"url": where the bytes are, "path": folder in the run, "sha256": of the bytes}
    END = "end"  # {"status": EndStatus, "ms": ms since the epoch}


def begin_run(
    session: Session, run: Run, params: Mapping[str, object], tags: Mapping[str, object], at: datetime
) -> None:
    """Open the MLflow run of a DAG run, or open it again when the DAG run was cleared.

    :param run: its row in the trading database; identity, name and start of the MLflow run are read from it.
    """
    key = (run.dag_id, run.run_id)
    _enqueue(session, key, Kind.BEGIN, {}, at)
    log_params(session, key, params, at)
    set_tags(session, key, tags, at)


def log_params(session: Session, key: RunKey, params: Mapping[str, object], at: datetime) -> None:
    """Record parameters. MLflow never changes one: a second, different value is refused and said so in a tag."""
    values = {clean_name(name): clip(str(value), MAX_PARAM_VALUE) for name, value in params.items()}
    if values:
        _enqueue(session, key, Kind.PARAMS, {"values": values}, at)


def log_metrics(session: Session, key: RunKey, metrics: Mapping[str, float], at: datetime, step: int = 0) -> None:
    """Record numbers as they were at `at`.

    NaN and infinities are no measurements: they are left out, and the tag `ibkr.not_finite` names them. (Raising here
    would roll back the order or signal that the caller records in the same transaction.)
    """
    values = {clean_name(name): float(value) for name, value in metrics.items()}
    odd = sorted(name for name, value in values.items() if not math.isfinite(value))
    if odd:
        log.warning("%s: not finite, left out of MLflow: %s", "/".join(key), ", ".join(odd))
        set_tags(session, key, {"ibkr.not_finite": ", ".join(odd)}, at)
    values = {name: value for name, value in values.items() if math.isfinite(value)}
    if values:
        _enqueue(session, key, Kind.METRICS, {"values": values, "ms": milliseconds(at), "step": step}, at)


def set_tags(session: Session, key: RunKey, tags: Mapping[str, object], at: datetime) -> None:
    """Record tags; a later value replaces an earlier one."""
    values = {clean_name(name): clip(str(value), MAX_TAG_VALUE) for name, value in tags.items()}
    if values:
        _enqueue(session, key, Kind.TAGS, {"values": values}, at)


def log_artifact(session: Session, key: RunKey, url: str, artifact_path: str, sha256: str, at: datetime) -> None:
    """Record a file by reference; the writer reads it when it sends it.

    :param url: a URL of Airflow's ObjectStorage, or an absolute path on this host.
    :param artifact_path: folder inside the MLflow run, such as `charts`; the file keeps its name.
    :param sha256: hex digest of the bytes; other bytes are not sent.
    """
    _enqueue(session, key, Kind.ARTIFACT, {"url": url, "path": clean_name(artifact_path), "sha256": sha256}, at)


def end_run(session: Session, key: RunKey, status: EndStatus, at: datetime) -> None:
    """Close the MLflow run with its final status, as of `at`. Closing twice is harmless; the last status stays."""
    _enqueue(session, key, Kind.END, {"status": status, "ms": milliseconds(at)}, at)


def _enqueue(session: Session, key: RunKey, kind: Kind, payload: dict[str, Any], at: datetime) -> None:
    from airflow_ibkr_plugin.store.tracking_outbox import TrackingOutbox

    dag_id, run_id = key
    TrackingOutbox(session).enqueue(dag_id, run_id, kind, payload, at)
