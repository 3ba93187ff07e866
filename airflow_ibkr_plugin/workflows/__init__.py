"""From YAML and overrides to validated workflows, Airflow DAGs, and the bundle that serves them."""
