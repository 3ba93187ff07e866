"""Fetch, check and cache market data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk.exceptions import TaskDeferred

from airflow_ibkr_plugin.errors import PacingViolation
from airflow_ibkr_plugin.operators.base import BrokerOperator, TaskRun

# IBKR's pacing is waited for in the worker slot for so many seconds, and in the triggerer when it takes longer.
_SLOT_SECONDS = 10.0
# After so long a try is given up, and Airflow's retries decide.
_MOST_PACED = timedelta(hours=2)


class MarketDataOperator(BrokerOperator):
    """Bars of one instrument into the trading database; asks the broker only for what is missing.

    Returns a summary as XCom: the pinned instrument, the bars' range, how many were fetched and how many cached.
    Where IBKR's pacing lets it wait for long, it is deferred: it gives back its worker slot and its client id, keeps
    its place in line, and goes on from what has come by then.

    :param symbol: `SPY`, `EUR.USD`, or a mapping (see docs/workflows.md).
    :param bar_size: IBKR's spelling, such as `1 day`, `5 mins`.
    :param duration: IBKR's spelling, such as `1 Y`, `30 D`.
    :param what: TRADES, MIDPOINT, BID or ASK; empty means TRADES, for forex MIDPOINT.
    :param calendar: exchange calendar for a symbol whose exchange has none that is known.
    """

    template_fields: Sequence[str] = ("symbol",)
    ui_color = "#dceaf7"

    def __init__(
        self,
        *,
        symbol: str | Mapping[str, Any],
        bar_size: str = "1 day",
        duration: str = "1 Y",
        what: str = "",
        use_rth: bool = True,
        calendar: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.symbol = symbol
        self.bar_size = bar_size
        self.duration = duration
        self.what = what
        self.use_rth = use_rth
        self.calendar = calendar

    def run_task(self, context: Any, run: TaskRun) -> dict[str, Any]:
        """See the class."""
        try:
            return self._fetch(run)
        except PacingViolation as error:
            # With a code it is IBKR's refusal of something else than history.
            if error.code is not None or error.retry_after is None:
                raise
            now = datetime.now(UTC)
            until = now + timedelta(seconds=error.retry_after)
            if until - (context["ti"].start_date or now) > _MOST_PACED:
                raise
            self.log.info("%s Waiting in the triggerer until %s.", error.message, until)
        from airflow.providers.standard.triggers.temporal import DateTimeTrigger

        raise TaskDeferred(trigger=DateTimeTrigger(until), method_name="resume")

    def resume(self, context: Any, event: Any) -> Any:
        """The wait is over; `event` is the time that was waited for."""
        # Airflow keeps a try's start over its deferrals.
        began: datetime | None = context["ti"].start_date
        now = datetime.now(UTC)
        return self.run_recorded(context, before=(now - (began or now)).total_seconds())

    def _fetch(self, run: TaskRun) -> dict[str, Any]:
        from airflow_ibkr_plugin.broker.contracts import pin
        from airflow_ibkr_plugin.broker.history import BarsRequest, fetch_bars
        from airflow_ibkr_plugin.broker.pacing import Pacing
        from airflow_ibkr_plugin.trading.instruments import InstrumentSpec, SecType

        spec = InstrumentSpec.parse(self.symbol)
        what = self.what or ("MIDPOINT" if spec.sec_type is SecType.FOREX else "TRADES")
        with self.broker(run) as session:
            instrument = pin(session, self.database, spec)
            request = BarsRequest(
                bar_size=self.bar_size,
                duration=self.duration,
                what=what,
                use_rth=self.use_rth,
                calendar=self.calendar,
            )
            pacing = Pacing(self.database, session.spec.address, owner=run.owner, most_wait=_SLOT_SECONDS)
            result = fetch_bars(session, self.database, instrument, request, pacing=pacing)
            now = session.now()
        self.log.info(
            "%s: %d bars %s..%s (%d fetched, %d cached) from %s",
            spec.name,
            len(result.bars),
            result.first,
            result.last,
            result.fetched,
            result.cached,
            result.source,
        )
        return {
            "symbol": spec.name,
            "instrument": instrument.to_dict(),
            "source": result.source,
            "bar_size": self.bar_size,
            "what": what,
            "use_rth": self.use_rth,
            "count": len(result.bars),
            "fetched": result.fetched,
            "cached": result.cached,
            "first": result.first.isoformat(),
            "last": result.last.isoformat(),
            "broker_time": now.isoformat(),
        }
