"""The MLflow client as this package uses it: short waits, no retries of its own, and two kinds of error."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.errors import TrackingRefused, TrackingUnavailable

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Values that hold while a drain runs, whatever the process has set. No retries: MLflow repeats a POST whose answer it
# did not see, which makes a second run, and it obeys any Retry-After. The outbox is the retry.
_FORCED = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
# Values that hold unless the process has set others. The client would report its use to a third party otherwise.
_DEFAULTS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "3", "MLFLOW_DISABLE_TELEMETRY": "true"}

# MLflow reads these from the environment at each request, so only one drain may change and restore them at a time.
_environment = threading.Lock()

# MLflow's answers that the same request would get again. All other failures may pass.
_REFUSALS = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE", "RESOURCE_DOES_NOT_EXIST"})
_REFUSED_UPLOADS = frozenset({400, 404, 413, 415, 422})


@contextmanager
def bounded_client(tracking_uri: str) -> Iterator[MlflowClient]:
    """A client whose every request ends within MLFLOW_HTTP_REQUEST_TIMEOUT (3 s unless set) and is sent once.

    A second thread of this process waits until the first has left.
    """
    with _environment:
        before = {name: os.environ.get(name) for name in _FORCED | _DEFAULTS}
        os.environ.update(_FORCED)
        for name, value in _DEFAULTS.items():
            os.environ.setdefault(name, value)
        try:
            from mlflow import MlflowClient

            yield MlflowClient(tracking_uri=tracking_uri)
        finally:
            for name, former in before.items():
                if former is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = former


@contextmanager
def mlflow_errors(doing: str) -> Iterator[None]:
    """Turn MLflow's and the HTTP client's exceptions into ours.

    :param doing: what the block does, for the message: `creating the run`.
    :raises TrackingRefused: MLflow answered that it will not take this.
    :raises TrackingUnavailable: no answer, or one that may be another next time.
    """
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    try:
        yield
    except MlflowException as error:
        refused = error.error_code in _REFUSALS
        raise _ours(refused, doing, str(error)) from error
    except RequestException as error:
        status = error.response.status_code if error.response is not None else None
        raise _ours(status in _REFUSED_UPLOADS, doing, str(error)) from error


def _ours(refused: bool, doing: str, reason: str) -> TrackingRefused | TrackingUnavailable:
    first = next((line.strip() for line in reason.splitlines() if line.strip()), "no reason given")[:500]
    if refused:
        return TrackingRefused(f"MLflow refused {doing}: {first}")
    return TrackingUnavailable(
        f"MLflow did not answer {doing}: {first}",
        remedy="Check that the server of [ibkr] mlflow_tracking_uri runs; the records wait in the outbox.",
    )
