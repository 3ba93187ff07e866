"""The waiting halves of the sensors, run by Airflow's triggerer."""
