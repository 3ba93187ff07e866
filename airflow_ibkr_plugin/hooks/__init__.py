"""The Airflow hook behind the connection type `ibkr`."""
