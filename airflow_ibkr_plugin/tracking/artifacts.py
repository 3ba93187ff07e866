"""The bytes that an artifact record refers to."""

from __future__ import annotations

import hashlib

from airflow_ibkr_plugin.errors import TrackingRefused, TrackingUnavailable


def read_artifact(url: str, sha256: str) -> bytes:
    """Return the bytes at `url`, any URL of Airflow's ObjectStorage or a path on this host.

    :raises TrackingRefused: the file is gone, holds other bytes than were recorded, or may not or cannot be read here.
    :raises TrackingUnavailable: the storage does not answer.
    """
    from airflow.sdk import ObjectStoragePath

    try:
        content = ObjectStoragePath(url).read_bytes()
    except FileNotFoundError as error:
        raise TrackingRefused(f"{url} is gone; it was recorded as an artifact.") from error
    except (ValueError, ImportError, PermissionError) as error:
        # No later try changes these, and the records behind this one must not wait for ever.
        raise TrackingRefused(f"{url} cannot be read here: {error}") from error
    except Exception as error:  # each storage has exceptions of its own
        raise TrackingUnavailable(
            f"{url} cannot be read: {error}", remedy="Check the storage and its Airflow connection."
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise TrackingRefused(f"{url} holds other bytes (sha256 {found}) than were recorded ({sha256}).")
    return content
