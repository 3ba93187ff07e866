"""Apache Airflow extension for Interactive Brokers trading workflows."""

__version__ = "0.1.0"
