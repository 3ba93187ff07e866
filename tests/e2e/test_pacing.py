"""`make pacing-test` until one window is used up: real processes, a real gateway process, one trading database."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_eight_processes_use_one_budget_up_and_break_no_rule() -> None:
    # It ends sooner: when no process finds room any more before the time is over.
    command = [sys.executable, "-m", "benchmarks.pacing", "--seconds", "120"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr  # no violation, and 90 % used
    assert "violations: 0" in done.stdout
