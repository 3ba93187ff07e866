"""`python -m airflow_ibkr_plugin.cli.local run|smoke`: the commands behind `make run` and `make smoke`."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from pathlib import Path

from airflow_ibkr_plugin.cli.local.layout import Layout, Ports
from airflow_ibkr_plugin.cli.local.processes import supervise
from airflow_ibkr_plugin.cli.local.setup import prepare
from airflow_ibkr_plugin.errors import IBKRPluginError


def main(arguments: list[str] | None = None) -> int:
    """Prepare and supervise; 0 is success, 2 is a fault that the user can mend."""
    parser = argparse.ArgumentParser(prog="airflow_ibkr_plugin.cli.local", description=__doc__)
    parser.add_argument("mode", choices=("run", "smoke"))
    parser.add_argument("--home", type=Path, required=True, help="AIRFLOW_HOME; smoke empties it first")
    parser.add_argument("--examples", type=Path, required=True, help="workflow files for a first start")
    options = parser.parse_args(arguments)
    smoke = options.mode == "smoke"
    home = options.home.resolve()
    try:
        if smoke:
            _empty(home)
        layout = Layout(home=home, ports=Ports.free() if smoke else Ports.from_environment())
        layout.ports.require_free()
        started = time.monotonic()
        print(f"Setting up {home}")
        prepare(layout, options.examples, lambda step: print(f"  {step} ...", flush=True))
        print(f"Set up in {time.monotonic() - started:.0f} s. Starting Airflow, MLflow and the simulated gateway ...")
        progress = [sys.executable, "-m", "airflow_ibkr_plugin.cli.local.progress", options.mode, str(home)]
        progress += [f"--{name}={port}" for name, port in vars(layout.ports).items()]
        status = supervise(layout, progress)
        # To stop what stays up is no fault; to interrupt a smoke run is no success.
        return 0 if not smoke and status in (128 + signal.SIGINT, 128 + signal.SIGTERM) else status
    except IBKRPluginError as error:
        print(f"\nCannot start: {error}", file=sys.stderr)
        return 2


def _empty(home: Path) -> None:
    """Remove what an earlier smoke run left; never a folder that is not one."""
    if home.exists():
        if any(home.iterdir()) and not (home / "secrets.json").exists():
            raise IBKRPluginError(f"{home} is not a folder of a smoke run.", remedy="Name another with --home.")
        shutil.rmtree(home)


if __name__ == "__main__":
    sys.exit(main())
