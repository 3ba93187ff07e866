"""Which MLflow run belongs to which DAG run: exactly one, whoever asks, in whatever process.

MLflow cannot make a run with a given id, and search-then-create by several processes makes several runs. So the row of
the DAG run in the trading database is claimed first; its holder looks for the run by tag, because an earlier holder may
have died between making the run and writing down its id, and only then makes one. The holder of the claim is also the
only one who sends the run's records, which keeps them in order.
"""

from __future__ import annotations

import hashlib
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.errors import TrackingRefused, TrackingUnavailable
from airflow_ibkr_plugin.tracking.client import mlflow_errors
from airflow_ibkr_plugin.tracking.names import clean_name, milliseconds

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from sqlalchemy.orm import Session

    from airflow_ibkr_plugin.store.database import Database
    from airflow_ibkr_plugin.store.models.runs import Run
    from airflow_ibkr_plugin.tracking.records import RunKey

# Far longer than a request that was sent once can take, so that a request of a holder who has died or lost its claim
# is over before the next holder searches. A request that MLflow's server delays for longer could still make a second.
CLAIM_SECONDS = 60.0

# The tag that the search goes by: one value without quoting trouble, and different for two installations whose
# scheduled runs have the same ids.
KEY_TAG = "ibkr.run_key"


@dataclass(frozen=True)
class MlflowRun:
    """Where a DAG run's records go."""

    experiment_id: str
    run_id: str


def new_owner() -> str:
    """A name for claims that no other drain has."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:12]}"


@contextmanager
def claimed(database: Database, key: RunKey, owner: str, now: datetime) -> Iterator[bool]:
    """Hold the claim on a DAG run's records; yields False where somebody else holds it.

    The claim is given back at the end, except after :class:`AmbiguousRun`: then it is left to expire.

    :raises TrackingRefused: the run is not stored.
    """
    from airflow_ibkr_plugin.store.runs import Runs

    with database.write() as session:
        _stored(session, key)
        held = Runs(session).claim_mlflow(*key, owner, now, CLAIM_SECONDS)
    release = held
    try:
        yield held
    except AmbiguousRun:
        release = False
        raise
    finally:
        if release:
            with database.write() as session:
                Runs(session).release_mlflow(*key, owner)


class AmbiguousRun(TrackingUnavailable):
    """MLflow was asked to make a run and did not answer; it may make it yet."""


def ensure_run(database: Database, client: MlflowClient, key: RunKey) -> MlflowRun:
    """Return the MLflow run of a DAG run; find or make it first. The caller holds the claim.

    :raises AmbiguousRun: MLflow did not answer the request to make it.
    :raises TrackingUnavailable: MLflow did not answer.
    :raises TrackingRefused: MLflow will not make it, or the experiment was deleted there.
    """
    from airflow_ibkr_plugin.store.database import installation_id
    from airflow_ibkr_plugin.store.runs import Runs

    with database.read() as session:
        row = _stored(session, key)
    if row.mlflow_run_id and row.mlflow_experiment_id:
        return MlflowRun(row.mlflow_experiment_id, row.mlflow_run_id)
    with database.write() as session:
        installation = installation_id(session)
    experiment = experiment_name(row.strategy)
    tags = _identity(row, installation)
    experiment_id = _experiment(client, experiment)
    with mlflow_errors("searching for the run"):
        found = client.search_runs(
            [experiment_id], f"tags.`{KEY_TAG}` = '{tags[KEY_TAG]}'", max_results=1, order_by=["start_time ASC"]
        )
    if found:
        made = found[0]
    else:
        try:
            with mlflow_errors("creating the run"):
                made = client.create_run(
                    experiment_id, start_time=milliseconds(row.started_at), tags=tags, run_name=run_name(row)
                )
        except TrackingUnavailable as error:
            raise AmbiguousRun(error.message, remedy=error.remedy) from error
    with database.write() as session:
        if Runs(session).set_mlflow(*key, experiment, experiment_id, made.info.run_id):
            return MlflowRun(experiment_id, made.info.run_id)
    raise TrackingUnavailable(f"run {key[1]} of DAG {key[0]} was bound to another MLflow run in the meantime.")


def _stored(session: Session, key: RunKey) -> Run:
    from airflow_ibkr_plugin.store.runs import Runs

    row = Runs(session).get(*key)
    if row is None:
        raise TrackingRefused(
            f"run {key[1]} of DAG {key[0]} has records but was never opened.",
            remedy="Clear its first task, so that it stores the run.",
        )
    return row


def experiment_name(strategy: str) -> str:
    """One experiment for each strategy."""
    return f"ibkr/{clean_name(strategy)}"


def run_name(row: Run) -> str:
    """What people read in MLflow's list: when it started (UTC), and what started it."""
    kind, separator, _ = row.run_id.partition("__")
    return f"{row.started_at:%Y-%m-%d %H:%M:%S} {kind if separator else row.run_id}"[:250]


def _identity(row: Run, installation: str) -> dict[str, str]:
    digest = hashlib.sha256("\0".join((installation, row.dag_id, row.run_id)).encode()).hexdigest()
    return {
        KEY_TAG: digest,
        "ibkr.installation": installation,
        "ibkr.dag_id": row.dag_id,
        "ibkr.run_id": row.run_id,
        "ibkr.strategy": row.strategy,
        "ibkr.mode": row.mode,
        "ibkr.config_hash": row.config_hash,
    }


def _experiment(client: MlflowClient, name: str) -> str:
    with mlflow_errors(f"looking for experiment {name!r}"):
        found = client.get_experiment_by_name(name)
    if found is None:
        try:
            with mlflow_errors(f"creating experiment {name!r}"):
                return str(client.create_experiment(name))
        except TrackingUnavailable:
            # Another process made it in between (MLflow says RESOURCE_ALREADY_EXISTS), or the server is gone.
            with mlflow_errors(f"looking for experiment {name!r}"):
                found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise TrackingRefused(
            f"experiment {name!r} was deleted in MLflow.",
            remedy=f"Restore it there: `mlflow experiments restore --experiment-id {found.experiment_id}`.",
        )
    return str(found.experiment_id)
