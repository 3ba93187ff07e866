"""One module per schema revision; :data:`airflow_ibkr_plugin.store.schema.REVISIONS` lists them."""
