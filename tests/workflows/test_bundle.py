"""The bundle's stubs, as Airflow reads them."""

from __future__ import annotations

import json
import logging
import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.overrides import Overrides
from airflow_ibkr_plugin.workflows.bundle import IBKRDagBundle

OBSERVE = """\
id: {id}
description: "quotes ''' \\" \\\\ and é"
symbols: [{symbol}]
tasks:
  data: {{type: market_data, for_each: symbol}}
  all: {{type: portfolio, needs: [data]}}
"""


@pytest.fixture
def database(trading_database: Database) -> Database:
    """The installation's trading database."""
    return trading_database


def override(database: Database, strategy: str, parameters: dict[str, Any]) -> None:
    with database.write() as session:
        Overrides(session).add(strategy, parameters, "tester", "to see", datetime.now(UTC))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    workflows = tmp_path / "workflows"
    workflows.mkdir()
    for name, symbol in (("alpha", "SPY"), ("beta", "QQQ")):
        (workflows / f"{name}.yaml").write_text(OBSERVE.format(id=name, symbol=symbol), encoding="utf-8")
    return workflows


@pytest.fixture
def bundle(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Database) -> IBKRDagBundle:
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH", str(tmp_path / "bundles"))
    return IBKRDagBundle(name="ibkr", workflows_folder=str(folder), refresh_interval=300)


def stubs(bundle: IBKRDagBundle) -> dict[str, str]:
    return {file.name: file.read_text() for file in bundle.path.glob("*.py")}


def bag(bundle: IBKRDagBundle) -> Any:
    from airflow.dag_processing.dagbag import BundleDagBag

    return BundleDagBag(dag_folder=bundle.path, bundle_path=bundle.path, bundle_name=bundle.name)


@pytest.mark.airflow
def test_there_is_one_stub_and_one_dag_for_each_strategy(bundle: IBKRDagBundle, airflow_home: Path) -> None:
    bundle.initialize()
    assert set(stubs(bundle)) == {"alpha.py", "beta.py"}
    found = bag(bundle)
    assert found.import_errors == {}
    assert set(found.dags) == {"alpha", "beta"}
    assert "quotes ''' \" \\ and é" in found.dags["alpha"].doc_md
    assert bundle.get_current_version() is None


@pytest.mark.airflow
def test_a_broken_file_is_one_import_error_that_names_its_place_and_the_others_run(
    bundle: IBKRDagBundle, folder: Path, airflow_home: Path
) -> None:
    (folder / "beta.yaml").write_text(OBSERVE.format(id="beta", symbol="QQQ").replace("market_data", "market_date"))
    (folder / "gamma.yaml").write_text("id: [")
    bundle.refresh()
    found = bag(bundle)
    assert set(found.dags) == {"alpha"}
    errors = {Path(file).name: text for file, text in found.import_errors.items()}
    assert len(errors) == 2
    assert (
        f"{folder / 'beta.yaml'}:5:16: 'market_date' is not allowed here. Did you mean 'market_data'?"
        in errors["beta.py"]
    )
    (other,) = errors.keys() - {"beta.py"}
    assert other.startswith("broken-gamma-")
    assert f"{folder / 'gamma.yaml'}:1:6: " in errors[other]


def test_an_override_reaches_its_strategy_alone_and_a_wrong_one_breaks_it_alone(
    bundle: IBKRDagBundle, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    bundle.refresh()
    before = stubs(bundle)
    override(database, "alpha", {"symbols": ["IBM"]})
    override(database, "nobody", {"symbols": ["IBM"]})
    bundle.refresh()
    after = stubs(bundle)
    assert '"symbols":["IBM"]' in after["alpha.py"]
    assert after["beta.py"] == before["beta.py"]
    assert "override of 'nobody', and no such strategy" in caplog.text
    override(database, "alpha", {"mode": "live"})
    bundle.refresh()
    assert "override 2 of 'alpha'" in stubs(bundle)["alpha.py"].replace("\\'", "'")
    assert stubs(bundle)["beta.py"] == before["beta.py"]


def test_only_what_changed_is_written_and_what_is_gone_is_removed(bundle: IBKRDagBundle, folder: Path) -> None:
    bundle.refresh()
    times = {file.name: file.stat().st_mtime_ns for file in bundle.path.glob("*.py")}
    (folder / "alpha.yaml").unlink()
    (folder / "gamma.yaml").write_text(OBSERVE.format(id="gamma", symbol="IBM"), encoding="utf-8")
    bundle.refresh()
    assert set(stubs(bundle)) == {"beta.py", "gamma.py"}
    assert (bundle.path / "beta.py").stat().st_mtime_ns == times["beta.py"]
    assert not list(bundle.path.glob("*.tmp"))


def test_text_of_the_user_is_only_ever_a_literal(bundle: IBKRDagBundle, folder: Path) -> None:
    hostile = "'''\"\"\"); import os; os.abort() #\\u0027 \\ \u2028 \ud7ff"
    quoted = json.dumps(hostile)  # JSON is YAML
    (folder / "alpha.yaml").write_text(f"id: alpha\ndescription: {quoted}\ntasks: {{all: {{type: portfolio}}}}\n")
    (folder / "delta.yaml").write_text(f"id: delta\ntasks: {{? {quoted} : 1}}\n")
    bundle.refresh()
    namespace: dict[str, Any] = {}
    exec(compile(stubs(bundle)["alpha.py"], "alpha.py", "exec"), namespace)
    assert hostile in namespace["dag"].doc_md
    with pytest.raises(ConfigError, match="is no id"):
        exec(compile(stubs(bundle)["delta.py"], "delta.py", "exec"), {})


@pytest.mark.parametrize("what", ["database", "folder"])
def test_while_something_is_down_the_last_dags_stay(
    what: str,
    bundle: IBKRDagBundle,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bundle.refresh()
    before = stubs(bundle)
    (folder / "alpha.yaml").unlink()
    if what == "folder":
        folder.rename(folder.with_name("elsewhere"))
    else:
        monkeypatch.setenv("AIRFLOW__IBKR__SQL_ALCHEMY_CONN", f"sqlite:///{tmp_path}/none/trading.db")
    with caplog.at_level(logging.ERROR):
        bundle.refresh()
    assert stubs(bundle) == before
    assert "the last DAGs stay as they are" in caplog.text


def test_with_nothing_from_before_the_error_is_raised(bundle: IBKRDagBundle, folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(ConfigError, match="workflows_folder"):
        bundle.initialize()


def test_a_worker_uses_fresh_stubs_as_they_are_and_renews_old_ones(bundle: IBKRDagBundle, folder: Path) -> None:
    bundle.initialize()
    (folder / "alpha.yaml").unlink()
    bundle.initialize()
    assert set(stubs(bundle)) == {"alpha.py", "beta.py"}
    stamp = bundle.path / ".refreshed"
    old = stamp.stat().st_mtime - 301
    os.utime(stamp, (old, old))
    bundle.initialize()
    assert set(stubs(bundle)) == {"beta.py"}


def test_a_folder_that_cannot_be_written_says_so(bundle: IBKRDagBundle, tmp_path: Path) -> None:
    blocker = Path(bundle.base_dir)
    blocker.parent.mkdir(parents=True, exist_ok=True)
    blocker.write_text("a file stands where the folder should be")
    assert stat.S_ISREG(blocker.stat().st_mode)
    with pytest.raises(ConfigError, match="dag_bundle_storage_path"):
        bundle.refresh()
