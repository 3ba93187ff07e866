"""Flask-AppBuilder pages, shown inside Airflow's UI. Imported by the api-server only."""
