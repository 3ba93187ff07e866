"""Which IBKR contract each configured instrument means."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.models.market import ContractPin
from airflow_ibkr_plugin.store.sql import upsert
from airflow_ibkr_plugin.trading.instruments import Instrument


class ContractPins:
    """Pins by source and :attr:`InstrumentSpec.key`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, source: str, spec_key: str) -> Instrument | None:
        """The instrument that the spec was pinned to."""
        row = self._session.get(ContractPin, (source, spec_key))
        return Instrument.from_dict(row.instrument) if row else None

    def pin(self, source: str, spec_key: str, instrument: Instrument, at: datetime) -> None:
        """Remember the instrument, in place of an earlier pin."""
        row = {
            "source": source,
            "spec_key": spec_key,
            "con_id": instrument.con_id,
            "instrument": instrument.to_dict(),
            "pinned_at": at,
        }
        upsert(self._session, ContractPin, ("source", "spec_key"), [row])
