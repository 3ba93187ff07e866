"""Which MLflow run belongs to which DAG run; what is written to it goes through an outbox in the trading database."""
