"""Charts in Airflow's ObjectStorage: a local folder, S3, or whatever its URL says."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from airflow_ibkr_plugin.errors import ChartMissing, ConfigError, StoreError, StoreFull

if TYPE_CHECKING:
    from airflow_ibkr_plugin.analysis.charts import ChartImage

_REMEDY = "Clear the chart task of this run, so that it is drawn again, then the tasks after it."


def save_chart(image: ChartImage, base_url: str, name: str) -> str:
    """Store a chart and return its URL.

    In a local folder the file appears whole or not at all, also when the process is killed; object stores give
    the same promise themselves. Saving the same chart under the same name again is harmless.

    :param base_url: such as `file:///var/charts` or `s3://aws_default@charts`; the part before `@` is the id of an
        Airflow connection.
    :param name: path below it. It should carry the chart's hash, so that no later chart takes its place. Characters
        that mean something in a URL become `_`.
    :raises StoreFull: no space is left.
    :raises StoreError: the storage failed in a way that may pass.
    :raises ConfigError: the URL cannot be used, or the name leaves `base_url`.
    """
    parts = [re.sub(r"[^A-Za-z0-9._=+-]", "_", part) for part in name.split("/")]
    if any(part in ("", ".", "..") for part in parts):
        raise ConfigError(f"{name!r} is not a name for a chart.", remedy="Use path segments without `..`.")
    if "://" not in base_url:
        # A relative path would lead elsewhere in each process.
        raise ConfigError(
            f"{base_url!r} is no URL for charts.", remedy="Set [ibkr] charts_url to file:///... or s3://..."
        )
    url = "/".join([base_url.rstrip("/"), *parts])
    with _storage_errors(url):
        path = _path(url)
        if path.protocol in ("file", "local", ""):
            _write_local(Path(path.path), image.png)
        else:
            path.write_bytes(image.png)
    return url


def load_chart(url: str, sha256: str) -> bytes:
    """Read a chart back and make sure that it is the one that was drawn.

    :param sha256: of the PNG's bytes, as stored with the URL.
    :raises ChartMissing: it is not there, or its bytes are others (altered, or written in part).
    :raises StoreError: the storage failed in a way that may pass.
    :raises ConfigError: the URL cannot be used.
    """
    with _storage_errors(url):
        try:
            png: bytes = _path(url).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise ChartMissing(f"there is no chart at {url}.", remedy=_REMEDY) from error
    found = hashlib.sha256(png).hexdigest()
    if found != sha256:
        raise ChartMissing(
            f"the chart at {url} is not the one that was drawn: sha256 {found}, expected {sha256}.", remedy=_REMEDY
        )
    return png


def _path(url: str):  # type: ignore[no-untyped-def]  # an ObjectStoragePath; importing it takes seconds
    from airflow.sdk import ObjectStoragePath

    return ObjectStoragePath(url)


def _write_local(path: Path, png: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{uuid4().hex}.part")
    try:
        part.write_bytes(png)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def _storage_errors(url: str) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise ConfigError(
            f"no permission for {url}: {error}", remedy="Let the worker read and write [ibkr] charts_url."
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(
                f"no space is left for the chart {url}.", remedy="Free space where [ibkr] charts_url points to."
            ) from error
        raise StoreError(
            f"the storage of {url} failed: {error}", remedy="Check that [ibkr] charts_url can be reached."
        ) from error
    except (ValueError, ImportError, NotImplementedError) as error:
        # What ObjectStoragePath says about a scheme without a file system, one whose library is absent, and one that
        # cannot be written to.
        raise ConfigError(
            f"{url} cannot be used as storage: {error}",
            remedy="Correct [ibkr] charts_url or install its provider, such as airflow-ibkr-plugin[s3].",
        ) from error
