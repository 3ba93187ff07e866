"""Has a real dag-processor run a DAG's failure callback, as the scheduler asks for it after a run has failed.

    python callback_worker.py DAG_FILE DAG_ID RUN_ID

In a process of its own: the dag-processor forks, and must not inherit the threads and locks of the tests.
"""

from __future__ import annotations

import selectors
import sys
import time
from pathlib import Path
from uuid import uuid4

import structlog
from airflow.callbacks.callback_requests import DagCallbackRequest, DagRunContext
from airflow.dag_processing.processor import DagFileProcessorProcess
from airflow.models.taskinstance import TaskInstance
from airflow.sdk.api.client import Client
from airflow.sdk.execution_time.supervisor import in_process_api_server
from airflow.utils.session import create_session
from sqlalchemy import select
from sqlalchemy.orm import joinedload


def main(file: Path, dag_id: str, run_id: str) -> int:
    with create_session() as session:
        query = select(TaskInstance).options(joinedload(TaskInstance.dag_run), joinedload(TaskInstance.dag_version))
        query = query.where(TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id)
        last_ti = session.scalars(query.where(TaskInstance.state == "failed")).one()
        request = DagCallbackRequest(
            filepath=file.name,
            dag_id=dag_id,
            run_id=run_id,
            bundle_name="dags-folder",
            bundle_version=None,
            context_from_server=DagRunContext(dag_run=last_ti.dag_run, last_ti=last_ti),
            is_failure_callback=True,
            msg="task_failure",
        )
    client = Client(base_url=None, token="", dry_run=True, transport=in_process_api_server().transport)
    client.base_url = "http://in-process.invalid./"
    with selectors.DefaultSelector() as selector, file.with_suffix(".log").open("wb") as log:
        child = DagFileProcessorProcess.start(
            id=uuid4(),
            path=file,
            bundle_path=file.parent,
            bundle_name="dags-folder",
            dag_file_rel_path=file.name,
            callbacks=[request],
            selector=selector,
            logger=structlog.get_logger(),
            logger_filehandle=log,
            client=client,
        )
        deadline = time.monotonic() + 120
        while not child.is_ready:
            if time.monotonic() > deadline:
                return 1
            child._service_subprocess(0.5)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
