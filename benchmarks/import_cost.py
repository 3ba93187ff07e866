"""What the plugin adds to an Airflow process: seconds and memory of loading all plugins, with it and without.

Aim: at most 0.15 s and 5 MB.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile

ROUNDS = 7
# Both load Airflow and the other plugins first; only the entry point's loading differs.
SCRIPT = """
import psutil, time
import airflow.plugins_manager, airflow.providers_manager
from importlib.metadata import entry_points
before = time.perf_counter()
memory = psutil.Process().memory_info().rss
if {load}:
    (plugin,) = entry_points(group="airflow.plugins", name="ibkr")
    plugin.load()
    (provider,) = [p for p in entry_points(group="apache_airflow_provider") if p.value.startswith("airflow_ibkr")]
    provider.load()()
print(time.perf_counter() - before, (psutil.Process().memory_info().rss - memory) / 2**20)
"""


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as home:
        rows = {load: [_run(home, load=load) for _ in range(ROUNDS)] for load in (True, False)}
    seconds = [statistics.median(s for s, _ in rows[load]) for load in (True, False)]
    memory = [statistics.median(m for _, m in rows[load]) for load in (True, False)]
    print(f"{'':16} {'with':>9} {'without':>9} {'added':>9}   aim")
    print(f"{'seconds':16} {seconds[0]:9.3f} {seconds[1]:9.3f} {seconds[0] - seconds[1]:9.3f}   0.15")
    print(f"{'MB':16} {memory[0]:9.1f} {memory[1]:9.1f} {memory[0] - memory[1]:9.1f}   5")


def _run(home: str, *, load: bool) -> tuple[float, float]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(load=load)],
        env=os.environ | {"AIRFLOW_HOME": home},
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, memory = done.stdout.split()[-2:]
    return float(seconds), float(memory)
