"""The service's lease on an intent: as good as a worker's, and only while the service leads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_ibkr_plugin.execution.lease import IntentLease

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from airflow_ibkr_plugin.service.term import Term


class FencedLease(IntentLease):
    """Lets nothing be stored of an intent once the term is over, though the lease on the intent may still run."""

    def __init__(self, lease: IntentLease, term: Term) -> None:
        self._lease = lease
        self._term = term

    def renew(self, transaction: Session) -> None:
        """See :class:`IntentLease`. :raises NotLeader: the term is over."""
        self._term.check(transaction)
        self._lease.renew(transaction)

    def check_before_send(self) -> None:
        """See :class:`IntentLease`. :raises NotLeader: the term is over."""
        self._term.require()
        self._lease.check_before_send()
