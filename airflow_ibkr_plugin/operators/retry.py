"""Airflow's retry policy, told by the family of the error."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import RetryDecision, RetryPolicy

from airflow_ibkr_plugin.errors import Family, IBKRPluginError


class FamilyRetryPolicy(RetryPolicy):
    """Fatal errors and those that need a human fail at once; the rest backs off as the task says.

    Only a delay that somebody named is kept instead: the broker's pacing limit, a lease's end, a server's Retry-After.
    """

    def evaluate(self, exception: BaseException, try_number: int, max_tries: int, context: Any = None) -> RetryDecision:
        """See the base class."""
        if not isinstance(exception, IBKRPluginError):
            return RetryDecision.default()
        if exception.family in (Family.FATAL, Family.NEEDS_HUMAN):
            return RetryDecision.fail(reason=str(exception))
        if exception.family is Family.RETRY_AFTER and exception.retry_after is not None:
            return RetryDecision.retry(delay=timedelta(seconds=exception.retry_after), reason=str(exception))
        return RetryDecision.default()

    def serialize(self) -> dict[str, Any]:
        """It has no parameters."""
        return {}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> FamilyRetryPolicy:
        """Inverse of :meth:`serialize`."""
        return cls()
