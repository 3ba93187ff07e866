"""The DAG bundle: one self-contained stub file for each strategy, made from its YAML and its override.

Configure it in `[dag_processor] dag_bundle_config_list`:

    [{"name": "ibkr", "classpath": "airflow_ibkr_plugin.workflows.bundle.IBKRDagBundle", "kwargs": {}}]
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from pathlib import Path
from typing import Any

from airflow.dag_processing.bundles.base import BaseDagBundle

from airflow_ibkr_plugin.errors import ConfigError, IBKRPluginError
from airflow_ibkr_plugin.workflows.checks import Checker
from airflow_ibkr_plugin.workflows.loader import Loaded, Override, load_folder
from airflow_ibkr_plugin.workflows.model import canonical

log = logging.getLogger(__name__)

# Written when all stubs are; its age says how fresh they are. Not a .py file, so Airflow does not look at it.
_STAMP = ".refreshed"


class IBKRDagBundle(BaseDagBundle):
    """Serves the workflows of a folder to Airflow.

    A strategy whose file or override is wrong gets a stub that raises exactly that error, so that Airflow shows it as
    the import error of this strategy and of no other. While the folder or the trading database cannot be read, the last
    stubs stay as they are: DAGs neither vanish nor run without their overrides.

    Workers use the stubs that the DAG processor wrote on the same machine; elsewhere a worker writes its own, at most
    once in `refresh_interval`.

    :param workflows_folder: folder with the YAML files; by default `[ibkr] workflows_folder`.
    """

    supports_versioning = False

    def __init__(self, *, workflows_folder: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._folder = workflows_folder

    @property
    def path(self) -> Path:
        """Where the stubs are."""
        return Path(self.base_dir) / "stubs"

    @property
    def folder(self) -> Path:
        """Where the workflows are."""
        from airflow_ibkr_plugin import settings

        return Path(self._folder) if self._folder else settings.load().workflows_folder

    def get_current_version(self) -> None:
        """There are no versions: a run's configuration is stored with the run."""
        return

    def initialize(self) -> None:
        """Make the stubs unless they are fresh.

        :raises IBKRPluginError: they cannot be made, and there are none from before.
        """
        with self.lock():
            if not self._is_fresh():
                self._refresh()
        super().initialize()

    def refresh(self) -> None:
        """Make the stubs that are new or changed, and remove those of strategies that are gone."""
        with self.lock():
            self._refresh()

    def _is_fresh(self) -> bool:
        try:
            age = time.time() - (self.path / _STAMP).stat().st_mtime
        except FileNotFoundError:
            return False
        return 0 <= age < self.refresh_interval

    def _refresh(self) -> None:
        from airflow_ibkr_plugin.registry import get_registry

        try:
            overrides = read_overrides()
            loaded = load_folder(self.folder, Checker(get_registry()), overrides)
        except IBKRPluginError as error:
            if not (self.path / _STAMP).exists():
                raise
            log.error("bundle %s: the last DAGs stay as they are: %s", self.name, error)
            return
        for strategy in sorted(overrides.keys() - {item.strategy for item in loaded}):
            log.warning("bundle %s: there is an override of %r, and no such strategy", self.name, strategy)
        write_stubs(self.path, loaded)


def read_overrides() -> dict[str, Override]:
    """The active override of each strategy that has one, from the trading database.

    :raises IBKRPluginError: the database cannot be read. Never an empty answer instead.
    """
    from airflow_ibkr_plugin.store.database import open_database
    from airflow_ibkr_plugin.store.overrides import Overrides

    with open_database().read() as session:
        return {
            strategy: Override(version=row.version, parameters=row.parameters)
            for strategy, row in Overrides(session).all_active().items()
        }


def write_stubs(folder: Path, loaded: list[Loaded]) -> None:
    """Make the folder hold exactly the stubs of these strategies; a file is touched only if its content changes.

    :raises ConfigError: the folder cannot be written.
    """
    stubs: dict[str, str] = {}
    for item in loaded:
        # Of several broken holders of one name, the first speaks: its message names the others.
        stubs.setdefault(stub_name(item), stub_text(item))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in stubs.items():
            _write(folder / name, text)
        for old in folder.glob("*.py"):
            if old.name not in stubs:
                old.unlink(missing_ok=True)
        (folder / _STAMP).touch()
    except OSError as error:
        raise ConfigError(
            f"the stubs of the workflows cannot be written to {folder}: {error.strerror or error}.",
            remedy="Free space there, or set [dag_processor] dag_bundle_storage_path to a folder that can be written.",
        ) from error


def stub_name(item: Loaded) -> str:
    """`momentum.py`; for a file too broken to say its strategy, a name made from the file's."""
    if item.strategy:
        return f"{item.strategy}.py"
    digest = hashlib.sha256(str(item.file).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"broken-{re.sub('[^A-Za-z0-9_]', '_', item.file.stem)[:64]}-{digest}.py"


def stub_text(item: Loaded) -> str:
    """Python that builds the strategy's DAG, or raises what is wrong with it. Text of the user stands in it only as
    string literals, in ASCII."""
    header = "# An Airflow dag, written by airflow-ibkr-plugin. Edit the workflow named below, not this file.\n"
    if item.workflow is None:
        error = item.error or ConfigError(f"{item.file} has no workflow.")
        return (
            f"{header}from airflow_ibkr_plugin.errors import ConfigError\n\n"
            f"raise ConfigError({error.message!a}, remedy={error.remedy!a})\n"
        )
    text = canonical(item.workflow.config)
    return (
        f"{header}from airflow_ibkr_plugin.workflows.builder import build_dag\n\n"
        f"dag = build_dag(\n    {text!a},\n    origin={str(item.file)!a},\n)\n"
    )


def _write(path: Path, text: str) -> None:
    content = text.encode("ascii")
    try:
        if path.read_bytes() == content:
            return
    except FileNotFoundError:
        pass
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
