"""What MLflow accepts as names and values.

Limits as in MLflow 3's `mlflow.utils.validation`: names of up to 250 characters made of word characters and ``/ . - :``
and space, that read as a normal relative path; parameter values of up to 6000 characters, tag values of up to 8000.
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime

MAX_NAME = 250
MAX_PARAM_VALUE = 6000
MAX_TAG_VALUE = 8000

_ILLEGAL = re.compile(r"[^/\w.\- :]")


def clean_name(name: str) -> str:
    """Return the nearest name that MLflow accepts; a legal name comes back as it is.

    Illegal characters become `_`, empty and dot segments of the path are dropped, and a name that is too long keeps
    its beginning and ends in a digest of the whole, so that two long names stay two.

    :raises ValueError: nothing is left of the name.
    """
    segments = [s for s in _ILLEGAL.sub("_", name).split("/") if s not in ("", ".", "..")]
    clean = "/".join(segments)
    if not clean.strip():
        raise ValueError(f"{name!r} cannot be a name in MLflow")
    if len(clean) > MAX_NAME:
        clean = f"{clean[: MAX_NAME - 13]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    return clean


def clip(value: str, limit: int) -> str:
    """Return `value`, cut to `limit` characters with a note of how long it was."""
    if len(value) <= limit:
        return value
    note = f" [cut; {len(value)} characters in all]"
    return value[: limit - len(note)] + note


def milliseconds(at: datetime) -> int:
    """Milliseconds since the epoch, MLflow's unit of time.

    :raises ValueError: `at` has no time zone.
    """
    if at.tzinfo is None:
        raise ValueError(f"{at!r} has no time zone")
    return int(at.timestamp() * 1000)
