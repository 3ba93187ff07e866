"""Instruments pinned by conId: once a workflow's symbol has meant one contract, it means no other."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.errors import AmbiguousContract
from airflow_ibkr_plugin.store.contract_pins import ContractPins
from airflow_ibkr_plugin.trading.instruments import Instrument, InstrumentSpec

if TYPE_CHECKING:
    from airflow_ibkr_plugin.store.database import Database


def pin(session: BrokerSession, database: Database, spec: InstrumentSpec) -> Instrument:
    """The instrument that the spec is pinned to, with today's trading hours; pins it at the first call.

    The broker is asked each time: hours change, and a pin that is no longer what the spec names must not be traded.

    :raises UnknownContract, AmbiguousContract: see :meth:`BrokerSession.resolve`.
    :raises AmbiguousContract: the spec was pinned to one conId and names another one now.
    """
    instrument = session.resolve(spec)
    with database.read() as transaction:
        pinned = ContractPins(transaction).get(session.source, spec.key)
    if pinned is None:
        with database.write() as transaction:
            ContractPins(transaction).pin(session.source, spec.key, instrument, datetime.now(UTC))
    elif pinned.con_id != instrument.con_id:
        raise AmbiguousContract(
            f"{spec.name} was pinned to conId {pinned.con_id} ({pinned.long_name}) and now resolves to"
            f" {instrument.con_id} ({instrument.long_name}).",
            remedy="If the new one is meant, name its primary_exchange in the workflow; positions stay with the old.",
        )
    return instrument
