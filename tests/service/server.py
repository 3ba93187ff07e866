"""A service process of the tests: `airflow ibkr service`, with the gateway that its argument names.

Takes a JSON object: the trading database's `url`, the gateway's `port`.
"""

from __future__ import annotations

import json
import os
import sys

given = json.loads(sys.argv[1])
os.environ["AIRFLOW__IBKR__SQL_ALCHEMY_CONN"] = given["url"]

from airflow_ibkr_plugin.broker.spec import GatewaySpec  # noqa: E402  Airflow reads its configuration once
from airflow_ibkr_plugin.execution import recover  # noqa: E402
from airflow_ibkr_plugin.service import visit  # noqa: E402
from airflow_ibkr_plugin.service.main import main  # noqa: E402


def gateway_of(conn_id: str) -> GatewaySpec:
    return GatewaySpec(
        conn_id=conn_id, host="127.0.0.1", port=given["port"], client_ids=range(10, 30), account="DU1234567", timeout=5
    )


recover.SETTLE_SECONDS = 0.5
visit.LEFT_TO_TASK = visit.LEFT_TO_TASK * 0
sys.exit(main(gateway_of))
