"""What each failure of a language model means to Airflow: fatal, try later, or ask again. Imports pydantic_ai."""

from __future__ import annotations

from pydantic_ai import exceptions as ai

from airflow_ibkr_plugin.errors import AnalystError, AnalystUnavailable, InvalidSignal

# No server may put a task to sleep for longer than this; seconds.
MAX_RETRY_AFTER = 3600.0
_LONGEST_QUOTE = 400

# The first class that fits, so the special ones come first: exception, what happened, remedy.
_FATAL: tuple[tuple[type[Exception], str, str], ...] = (
    (ai.ModelAuthenticationError, "refused the API key", "Correct the API key (password) of the connection."),
    (ai.ModelNotFoundError, "does not know the model", "Correct `model` in the connection's extra, or its host."),
    (ai.ModelContextWindowExceededError, "found the question too long", "Draw fewer bars or choose a larger model."),
    (ai.ModelQuotaExceededError, "has no quota left for this key", "Raise the quota or the credit of the account."),
    (ai.ModelRequestRejectedError, "rejected the request", "Check that the model takes images and these parameters."),
    (ai.ContentFilterError, "refused to answer", "Change the prompt or the model."),
    (ai.OutputTokenLimitExceeded, "was cut off by the length limit", "Raise `max_tokens`, or shorten the prompt."),
    (ai.UsageLimitExceeded, "used up the tokens of this question", "Raise `max_total_tokens`, or draw fewer bars."),
    (ai.UserError, "cannot be asked like this", "Correct the connection: `model`, API key and host."),
)
_LATER: tuple[tuple[type[Exception], str], ...] = (
    (ai.ModelRateLimitError, "asks for patience (rate limit)"),
    (ai.RunTimedOut, "did not answer before the deadline"),
    (ai.ModelTimeoutError, "did not answer in time"),
    (ai.ModelConnectionError, "cannot be reached"),
    (ai.ModelUnavailableError, "is overloaded or down"),
    (ai.ModelServerError, "failed inside"),
    # What the client library could not put into a category: nothing says that a later try must fail.
    (ai.ModelAPIError, "failed"),
)


def to_error(error: Exception, *, connection_id: str, raw: str) -> AnalystError:
    """Translate an exception of an agent's run.

    :param raw: the messages so far, kept on the error for the audit.
    :returns: AnalystError (fatal), AnalystUnavailable (with `retry_after` where the server names it), or InvalidSignal
        (ask again). An error that is none of the model's raises TypeError: it is a bug of ours and must not look like
        the model's.
    """
    if isinstance(error, ai.FallbackExceptionGroup):
        return _of_chain([to_error(e, connection_id=connection_id, raw=raw) for e in error.exceptions])
    who = f"the model of connection {connection_id!r}"
    for kind, what, remedy in _FATAL:
        if isinstance(error, kind):
            return AnalystError(f"{who} {what}{_quote(error)}.", remedy=remedy, raw=raw)
    for kind, what in _LATER:
        if isinstance(error, kind):
            wait = getattr(error, "retry_after", None)
            return AnalystUnavailable(
                f"{who} {what}{_quote(error)}.",
                remedy="Airflow tries again later; if it lasts, check the provider's status and the connection's host.",
                retry_after=min(wait, MAX_RETRY_AFTER) if wait is not None else None,
                raw=raw,
            )
    if isinstance(error, ai.UnexpectedModelBehavior):
        return InvalidSignal(
            f"{who} gave no valid signal{_quote(error)}.",
            remedy="Read the raw answer; then change the prompt or the model, or check the connection's host.",
            raw=raw,
        )
    raise TypeError(f"not an outcome of a model: {error!r}") from error


def _of_chain(errors: list[AnalystError]) -> AnalystError:
    """Every model of a fallback chain failed: if any may recover, a later try may succeed, at the earliest then."""
    later = [e for e in errors if isinstance(e, AnalystUnavailable)]
    text = "every model of the fallback chain failed: " + " ".join(e.message for e in errors)
    if later:
        waits = [e.retry_after for e in later if e.retry_after is not None]
        # One that names no time may answer at any: then the task's own back-off decides.
        wait = min(waits) if len(waits) == len(later) else None
        return AnalystUnavailable(text, remedy=later[0].remedy, retry_after=wait, raw=errors[-1].raw)
    return AnalystError(text, remedy=errors[-1].remedy, raw=errors[-1].raw)


def _quote(error: Exception) -> str:
    """The provider's words, shortened; not those about the key, which some providers repeat in their answer."""
    if isinstance(error, (ai.ModelAuthenticationError, ai.ContentFilterError, ai.RunTimedOut)):
        return ""
    text = " ".join(str(error).split())
    return f": {text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + ' ...'}".rstrip(".")
