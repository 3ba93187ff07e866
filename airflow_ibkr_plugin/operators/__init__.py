"""Airflow operators: each takes Airflow's context, calls one function below, and hands the result on."""
