"""`make pacing-test` for half a minute: real processes, a real gateway process, one trading database."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_eight_processes_use_one_budget_up_and_break_no_rule() -> None:
    command = [sys.executable, "-m", "benchmarks.pacing", "--seconds", "30"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "counted 60 (BID_ASK twice) of 60 allowed" in done.stdout
    assert "violations: 0" in done.stdout
