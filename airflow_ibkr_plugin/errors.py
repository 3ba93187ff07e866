"""One root for every error of this package; its family tells Airflow what to do next.

Raise the most specific class. The message says what happened, the remedy what a person can do about it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Family(StrEnum):
    """How a caller behaves after an error; Airflow's retry policy reads it."""

    FATAL = "fatal"  # a retry cannot help
    RETRY = "retry"  # retry by the task's own back-off
    RETRY_AFTER = "retry_after"  # retry, but not before `retry_after` seconds; without them like RETRY
    NEEDS_HUMAN = "needs_human"  # stop and alert: a person must act first


class IBKRPluginError(Exception):
    """Root of all errors raised on purpose by this package.

    :param message: what happened, naming the thing it happened to.
    :param remedy: what to do about it, one imperative sentence.
    :param retry_after: seconds to wait before a retry; only read in the family RETRY_AFTER.
    """

    family: ClassVar[Family] = Family.FATAL
    default_retry_after: ClassVar[float | None] = None

    def __init__(self, message: str, *, remedy: str = "", retry_after: float | None = None) -> None:
        self.message = message
        self.remedy = remedy
        self.retry_after = retry_after if retry_after is not None else self.default_retry_after
        super().__init__(message, remedy, self.retry_after)

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".rstrip()

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.remedy, self.retry_after))


def _rebuild(cls: type[IBKRPluginError], message: str, remedy: str, after: float | None) -> IBKRPluginError:
    return cls(message, remedy=remedy, retry_after=after)


# --- configuration and packages -----------------------------------------------------------------


class ConfigError(IBKRPluginError):
    """A setting, workflow file or override that cannot be used."""


class PackageError(IBKRPluginError):
    """A strategy package that does not load, or whose hooks are wrong."""


class LiveTradingRefused(IBKRPluginError):
    """Live money was asked for without all the consents it needs, or on a simulated clock."""


# --- trading database ---------------------------------------------------------------------------


class StoreError(IBKRPluginError):
    """The trading database answered with an error that a later try may not see."""

    family = Family.RETRY


class StoreFull(StoreError):
    """No space is left where the trading database or the charts are kept."""

    family = Family.NEEDS_HUMAN


class SchemaMismatch(IBKRPluginError):
    """The trading database is newer or older than this code."""


class NotLeader(IBKRPluginError):
    """This process does not lead the background service any more; another one may."""

    family = Family.RETRY


# --- broker ---------------------------------------------------------------------------------------


class BrokerError(IBKRPluginError):
    """The broker refused or failed a request; `code` is IBKR's error code where there is one."""

    def __init__(
        self, message: str, *, remedy: str = "", retry_after: float | None = None, code: int | None = None
    ) -> None:
        super().__init__(message, remedy=remedy, retry_after=retry_after)
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_broker, (type(self), self.message, self.remedy, self.retry_after, self.code))


def _rebuild_broker(
    cls: type[BrokerError], message: str, remedy: str, after: float | None, code: int | None
) -> BrokerError:
    return cls(message, remedy=remedy, retry_after=after, code=code)


class GatewayUnavailable(BrokerError):
    """Nobody answers at the gateway's address, or it hung up."""

    family = Family.RETRY


class BrokerTimeout(BrokerError):
    """The gateway accepted a request and did not answer in time."""

    family = Family.RETRY


class SessionInvalid(BrokerError):
    """The gateway is up, but its session with IBKR is not."""

    family = Family.RETRY


class PacingViolation(BrokerError):
    """IBKR's rate limit was reached."""

    family = Family.RETRY_AFTER
    default_retry_after = 60.0


class ClientIdInUse(BrokerError):
    """Every client id of the connection's range is taken."""

    family = Family.RETRY_AFTER
    default_retry_after = 15.0


class UnknownContract(BrokerError):
    """IBKR knows no contract that matches."""


class AmbiguousContract(BrokerError):
    """More than one contract matches; the configuration must say which."""


class NoMarketData(BrokerError):
    """No usable quote or history: empty, delayed, or not subscribed."""

    family = Family.RETRY


class OrderRejected(BrokerError):
    """The broker refused the order; sending it again would be refused again."""


class OrderIdInUse(BrokerError):
    """The order id was used before. Nothing was placed; the same order may go out under a new id."""

    family = Family.RETRY


class IntentBusy(IBKRPluginError):
    """Another worker is at work on the same order intent, or was until it crashed."""

    family = Family.RETRY_AFTER
    default_retry_after = 15.0


class BooksDisagree(IBKRPluginError):
    """Our book of an account and the broker's differ, and nobody has accepted that."""

    family = Family.NEEDS_HUMAN


class AmbiguousOrder(BrokerError):
    """Whether the broker has the order could not be established. Never assumed in either direction."""

    family = Family.NEEDS_HUMAN


# --- data, charts, analysts -------------------------------------------------------------------------


class BadBars(IBKRPluginError):
    """Market data that is incomplete, stale or self-contradictory."""

    family = Family.RETRY


class ChartMissing(IBKRPluginError):
    """The chart that a signal should be read from is not in storage, or is not the one that was drawn."""


class AnalystError(IBKRPluginError):
    """The analyst cannot answer, and asking again would not help; `raw` is what it did answer, for the audit."""

    def __init__(self, message: str, *, remedy: str = "", retry_after: float | None = None, raw: str = "") -> None:
        super().__init__(message, remedy=remedy, retry_after=retry_after)
        self.raw = raw

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_analyst, (type(self), self.message, self.remedy, self.retry_after, self.raw))


def _rebuild_analyst(cls: type[AnalystError], message: str, remedy: str, after: float | None, raw: str) -> AnalystError:
    return cls(message, remedy=remedy, retry_after=after, raw=raw)


class AnalystUnavailable(AnalystError):
    """The analyst may answer later: `retry_after` is what its server asked for, None where it asked for nothing."""

    family = Family.RETRY_AFTER


class InvalidSignal(AnalystError):
    """The analyst answered something that is not a valid signal."""

    family = Family.RETRY


# --- tracking and alerts --------------------------------------------------------------------------


class TrackingUnavailable(IBKRPluginError):
    """MLflow did not take the records; they stay in the outbox."""

    family = Family.RETRY


class TrackingRefused(IBKRPluginError):
    """MLflow will not take this record however often it is sent, or what it refers to is gone."""


class AlertNotDelivered(IBKRPluginError):
    """No Apprise target accepted the alert; it stays in the outbox."""

    family = Family.RETRY
