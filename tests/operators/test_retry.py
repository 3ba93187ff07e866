from __future__ import annotations

from datetime import timedelta

import pytest
from airflow.sdk import RetryAction

from airflow_ibkr_plugin import errors
from airflow_ibkr_plugin.operators.retry import FamilyRetryPolicy


def decide(error: BaseException):
    return FamilyRetryPolicy().evaluate(error, try_number=1, max_tries=3)


@pytest.mark.parametrize("error", [errors.ConfigError("x"), errors.AmbiguousOrder("x"), errors.OrderRejected("x")])
def test_what_no_retry_can_mend_fails_at_once(error: Exception) -> None:
    assert decide(error).action is RetryAction.FAIL


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (errors.PacingViolation("slow down", retry_after=42), 42),
        (errors.PacingViolation("slow down"), 60),
        (errors.IntentBusy("x", retry_after=7), 7),
        (errors.ClientIdInUse("x"), 15),
        (errors.AnalystUnavailable("x", retry_after=120), 120),
    ],
)
def test_a_delay_that_somebody_named_is_kept(error: Exception, seconds: float) -> None:
    decision = decide(error)
    assert decision.action is RetryAction.RETRY
    assert decision.retry_delay == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "error",
    [
        errors.GatewayUnavailable("x"),
        errors.SessionInvalid("x"),
        errors.AnalystUnavailable("no Retry-After"),
        errors.BrokerTimeout("x"),
        errors.StoreError("x"),
        ValueError("a bug"),
    ],
)
def test_the_rest_backs_off_as_the_workflow_says(error: Exception) -> None:
    assert decide(error).action is RetryAction.DEFAULT


def test_it_survives_serialisation() -> None:
    policy = FamilyRetryPolicy()
    assert isinstance(FamilyRetryPolicy.deserialize(policy.serialize()), FamilyRetryPolicy)
