from __future__ import annotations

import csv
import json
from pathlib import Path

from airflow_ibkr_plugin.cli.local.replay import REPLAYED, write_replay


def test_the_recorded_history_is_written_whole_and_labelled(tmp_path: Path) -> None:
    write_replay(tmp_path)
    catalogue = {entry["symbol"]: entry for entry in json.loads((tmp_path / "catalogue.json").read_text())}
    assert set(catalogue) == set(REPLAYED)
    for symbol, entry in catalogue.items():
        assert entry["longName"].startswith("FICTITIOUS")
        with (tmp_path / entry["file"]).open() as stream:
            rows = list(csv.DictReader(stream))
        # 5,031 sessions: what `arch` carries of 1999 to 2018.
        assert len(rows) == 5031, symbol
        assert all(float(row["low"]) <= float(row["high"]) for row in rows)
        assert (rows[0]["date"], rows[-1]["date"]) == ("1999-01-04", "2018-12-31")
