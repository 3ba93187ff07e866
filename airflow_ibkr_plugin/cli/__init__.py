"""The command line: `airflow ibkr ...`, and the one-machine launcher behind `make run`."""
