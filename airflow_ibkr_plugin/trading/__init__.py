"""The domain, pure: frozen values and functions over them. No I/O, no Airflow, no broker library."""
