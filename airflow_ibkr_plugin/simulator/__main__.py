"""`python -m airflow_ibkr_plugin.simulator`."""

import sys

from airflow_ibkr_plugin.simulator.commandline import run

if __name__ == "__main__":
    sys.exit(run())
