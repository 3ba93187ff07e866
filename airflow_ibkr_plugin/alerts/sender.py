"""Sends the alerts that are due, through Apprise."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_ibkr_plugin.alerts.messages import Severity
from airflow_ibkr_plugin.errors import AlertNotDelivered

if TYPE_CHECKING:
    from airflow_ibkr_plugin.store.database import Database

log = logging.getLogger(__name__)

BATCH = 20
FIRST_WAIT = 30.0
LONGEST_WAIT = 3600.0
# While one process sends an alert, no other takes it up. Apprise gives a target 60 s (1.9: 8 s a request).
SENDING_SECONDS = 120.0

NO_TARGET = "no target configured"


@dataclass(frozen=True)
class DeliveryResult:
    """What a delivery did.

    :param delivered: alerts that at least one target took.
    :param waiting: alerts that stay in the outbox.
    :param error: what is wrong with a target, without its secrets; :data:`NO_TARGET`; or None.
    """

    delivered: int
    waiting: int
    error: str | None


def back_off(attempts: int) -> timedelta:
    """How long an alert rests after this many failed attempts: 30 s, doubled each time, an hour at most."""
    return timedelta(seconds=min(FIRST_WAIT * 2.0 ** min(attempts, 20), LONGEST_WAIT))


def deliver_due(database: Database, urls: Sequence[str], *, now: datetime) -> DeliveryResult:
    """Send every alert that is due to every target. A target's failure is in the result, never raised.

    An alert that some targets took and others did not counts as delivered, and the log names the others: sending it
    again would repeat it where it has arrived. One that no target took rests and is sent again later.

    :param urls: Apprise URLs, `[ibkr] alert_urls`. An invalid one is an error in the result; the others are used.
    :param now: aware UTC.
    :raises StoreError: the trading database fails.
    """
    from airflow_ibkr_plugin.store.alerts import Alerts

    if not urls:
        return DeliveryResult(0, _waiting(database), NO_TARGET)
    targets, faults = _targets(urls)
    delivered = 0
    with database.write() as session:
        due = Alerts(session).claim_due(now, limit=BATCH, until=now + timedelta(seconds=SENDING_SECONDS))
        alerts = [(row.id, row.severity, row.title, row.body, row.attempts) for row in due]
    for alert_id, severity, title, body, attempts in alerts:
        try:
            faults += _send(targets, Severity(severity), title, body)
        except AlertNotDelivered as error:
            faults.append(str(error))
            with database.write() as session:
                Alerts(session).failed(alert_id, str(error), now + back_off(attempts))
            continue
        with database.write() as session:
            Alerts(session).delivered(alert_id, now)
        delivered += 1
    for fault in dict.fromkeys(faults):
        log.error("alerts: %s", fault)
    return DeliveryResult(delivered, _waiting(database), "; ".join(dict.fromkeys(faults)) or None)


def _waiting(database: Database) -> int:
    from airflow_ibkr_plugin.store.alerts import Alerts

    with database.read() as session:
        return Alerts(session).count_waiting()


def _targets(urls: Sequence[str]) -> tuple[list[tuple[str, Any]], list[str]]:
    """The usable targets with names that hold no secret, and what is wrong with the others."""
    from apprise import Apprise

    targets: list[tuple[str, Any]] = []
    faults: list[str] = []
    for number, url in enumerate(urls, start=1):
        with _apprise_logs_from(logging.CRITICAL):  # its error shows the whole of a URL that it cannot parse
            target = Apprise.instantiate(url)
        if target is None:
            scheme = urlsplit(url).scheme or "no scheme"
            faults.append(f"alert URL number {number} ({scheme}://...) is not a valid Apprise URL")
        else:
            # Without the path: Apprise's private form keeps it where it takes it for no secret, as in json://.
            private = urlsplit(target.url(privacy=True))
            targets.append((f"alert URL number {number} ({private.scheme}://{private.netloc}/...)", target))
    return targets, faults


def _send(targets: Sequence[tuple[str, Any]], severity: Severity, title: str, body: str) -> list[str]:
    """Send to each target; return what went wrong with some.

    :raises AlertNotDelivered: no target took it.
    """
    from apprise import Apprise, NotifyFormat, NotifyType

    kinds = {Severity.INFO: NotifyType.INFO, Severity.WARNING: NotifyType.WARNING}
    kind = kinds.get(severity, NotifyType.FAILURE)
    faults: list[str] = []
    for name, target in targets:
        channel = Apprise()
        channel.add(target)
        # Apprise answers True when the target took it; False when it did not; None when nobody was asked.
        with _apprise_logs_from(logging.WARNING):  # its debug lines show addresses with their tokens
            taken = channel.notify(body=body, title=title, notify_type=kind, body_format=NotifyFormat.TEXT)
        if not taken:
            faults.append(f"{name} did not take the alert")
    if len(faults) == len(targets):
        raise AlertNotDelivered(
            ("; ".join(faults) or "there is no valid target") + ".", remedy="It is sent again later; check the target."
        )
    return faults


@contextmanager
def _apprise_logs_from(level: int) -> Iterator[None]:
    """Keep what Apprise logs below `level`, and the secrets in it, out of every log."""
    logger = logging.getLogger("apprise")
    before = logger.level
    logger.setLevel(max(level, before))
    try:
        yield
    finally:
        logger.setLevel(before)
