"""`airflow ibkr limits`: what a person sets is checked, recorded and in force at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from freezegun import freeze_time

from airflow_ibkr_plugin.cli import limits as commands
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.limits import Limits

AIRFLOW = str(Path(sys.executable).with_name("airflow"))
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def run(command: Any, **changes: Any) -> None:
    given = {"rule": "order_notional", "account": "DU1", "parameters": "{}", "until": "", "reason": "drill"}
    command(Namespace(**given | {"output": "json"} | changes))


def rows(capsys: pytest.CaptureFixture[str], command: Any, **changes: Any) -> list[dict[str, str]]:
    capsys.readouterr()
    run(command, **changes)
    found: list[dict[str, str]] = json.loads(capsys.readouterr().out)
    return found


def test_a_person_sets_a_limit_and_sees_it_and_its_history(trading_database: Database) -> None:
    def airflow(*words: str) -> str:
        done = subprocess.run(
            [AIRFLOW, "ibkr", "limits", *words], env=os.environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    set_it = ["set", "order_notional", "--account", "DU1", "--reason", "first week", "--parameters"]
    assert 'no limit -> {"max": 5000}' in airflow(*set_it, '{"max": 5000}')
    (limit,) = json.loads(airflow("list", "--output", "json"))
    assert (limit["account"], limit["rule"], limit["parameters"]) == ("DU1", "order_notional", '{"max": 5000}')
    assert '{"max": 5000} -> no limit' in airflow("unset", "order_notional", "--account", "DU1", "--reason", "over")
    history = json.loads(airflow("history", "--output", "json"))
    assert [(row["from"], row["to"], row["reason"]) for row in history] == [
        ("no limit", '{"max": 5000}', "first week"),
        ('{"max": 5000}', "no limit", "over"),
    ]
    assert all("@" in row["changed_by"] for row in history)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": "max_order_notional"}, "no risk rule is named 'max_order_notional'"),
        ({"parameters": '{"limit": 5000}'}, "'limit' was unexpected"),
        ({"parameters": '{"max": -1}'}, r"\$.max"),
        ({"parameters": '{"max": NaN}'}, "NaN is no number"),
        ({"parameters": "5000"}, "is not of type 'object'"),
        ({"parameters": "max=5000"}, "not JSON"),
        ({"until": "tomorrow"}, "is no time"),
        ({"until": "2999-01-01T00:00"}, "no time zone"),
        ({"until": "2020-01-01T00:00Z"}, "is past"),
        ({"reason": " "}, "with its reason"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_changed(
    trading_database: Database, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(SystemExit, match=message):
        run(commands.set_limit, **{"parameters": '{"max": 5000}'} | changes)
    with trading_database.read() as session:
        assert Limits(session).history() == []


def test_a_limit_for_a_time_reverts_and_that_is_recorded(
    trading_database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    with freeze_time(NOW) as clock:
        run(commands.set_limit, parameters='{"max": 5000}')
        run(commands.set_limit, parameters='{"max": 9000}', until="2026-11-21T14:00+01:00")
        run(commands.set_limit, parameters='{"max": 9000}', until="2026-11-21T13:00Z")
        assert "nothing was changed" in capsys.readouterr().out
        (limit,) = rows(capsys, commands.show_list)
        assert (limit["parameters"], limit["until"]) == ('{"max": 9000}', "2026-11-21 13:00:00 UTC")
        clock.tick(timedelta(hours=2))
        (limit,) = rows(capsys, commands.show_list)
        assert (limit["parameters"], limit["until"]) == ('{"max": 5000}', "")
        *_, end = rows(capsys, commands.show_history, rule=None)
        assert (end["from"], end["to"], end["changed_by"]) == ('{"max": 9000}', '{"max": 5000}', "expiry")
        assert end["at"] == "2026-11-21 13:00:00 UTC"


def test_what_no_package_offers_any_more_is_shown_and_can_be_taken_away(
    trading_database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    with trading_database.write() as session:
        Limits(session).change("", "gone.rule", {"x": 1}, by="anna", reason="r", at=datetime.now(UTC))
    (limit,) = rows(capsys, commands.show_list, account=None)
    assert limit["account"] == "every account"
    assert "denies every order" in limit["rule"]
    run(commands.unset_limit, rule="gone.rule", account="")
    run(commands.show_list, account=None, output="table")
    assert "No account limit is set" in capsys.readouterr().out


def test_an_account_that_nobody_has_seen_is_warned_of(
    trading_database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    run(commands.set_limit, parameters='{"max": 5000}', account="DU12")
    assert "no order of account DU12 is on record" in capsys.readouterr().err
    run(commands.set_limit, parameters='{"max": 5000}', account="")
    assert capsys.readouterr().err == ""


def test_a_database_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AIRFLOW__IBKR__SQL_ALCHEMY_CONN", f"sqlite:///{tmp_path}/none.db")
    for command in (commands.set_limit, commands.unset_limit, commands.show_list, commands.show_history):
        with pytest.raises(SystemExit, match="no trading database"):
            run(command, parameters='{"max": 5000}')
