"""From a valid signal to an order at the broker, exactly once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from airflow_ibkr_plugin.operators.base import BrokerOperator, TaskRun

if TYPE_CHECKING:
    from airflow_ibkr_plugin.execution.outcome import OrderOutcome
    from airflow_ibkr_plugin.trading.instruments import Instrument
    from airflow_ibkr_plugin.trading.orders import Side
    from airflow_ibkr_plugin.trading.plans import TicketPlan
    from airflow_ibkr_plugin.trading.signals import Signal


class OrderOperator(BrokerOperator):
    """Checks risk, places the order, waits for it, books it. A signal of hold, or a denial by risk, sends nothing.

    A retry or a clear never sends a second order: the intent of this task, run and instrument is found again, until a
    person raises its generation (`airflow ibkr orders again`). If an order was sent and the signal, made anew, says
    hold, that order is still followed to its end.

    :param signal_task: id of the :class:`SignalOperator` task whose signal is acted on.
    :param sizing: `{quantity: 10}`, `{notional: 5000}`, `{share_of_net_liquidation: 0.02}` or `{risk_per_trade: 0.01}`.
    :param order_type: MKT, LMT, STP, STP LMT or TRAIL.
    :param limit_offset: for LMT, how far the limit stands on the far side of the reference price, as a fraction.
    :param stop_offset: for STP and STP LMT, how far the stop stands from the reference price, as a fraction: above it
        for a buy, below it for a sell. Prices come from here, never from the signal. A TRAIL begins there.
    :param trail_offset, trail_amount: how far a TRAIL follows the market, one of the two: a fraction of the price, or
        money of the instrument's currency.
    :param bracket: exits that are sent with the order as one unit: `{stop: {offset: 0.02}, target: {offset: 0.04}}`.
    :param risk: mapping of risk rule to its parameters.
    :param mode: paper or live.
    :param wait_seconds: how long to wait for the fill before what is left is cancelled.
    :param on_timeout: `leave` to leave what is left at the broker, for the service to book; the task then succeeds with
        the state `working`.
    :param allow_short: whether a sell may go beyond what the strategy holds.
    :raises ConfigError: these do not go together, such as a STP without a `stop_offset`.
    """

    template_fields: Sequence[str] = ("symbol",)
    ui_color = "#f9d9d4"

    def __init__(
        self,
        *,
        symbol: str | Mapping[str, Any],
        signal_task: str,
        sizing: Mapping[str, Any],
        order_type: str = "MKT",
        limit_offset: float = 0.0,
        stop_offset: float | None = None,
        trail_offset: float | None = None,
        trail_amount: float | None = None,
        tif: str = "DAY",
        outside_rth: bool = False,
        bracket: Mapping[str, Any] | None = None,
        risk: Mapping[str, Mapping[str, Any]] | None = None,
        mode: str = "paper",
        wait_seconds: float = 60.0,
        on_timeout: Literal["cancel", "leave"] = "cancel",
        allow_short: bool = False,
        **kwargs: Any,
    ) -> None:
        from airflow_ibkr_plugin.trading.orders import Side

        super().__init__(**kwargs)
        self.symbol = symbol
        self.signal_task = signal_task
        self.sizing = dict(sizing)
        self.order_type = order_type
        self.limit_offset = limit_offset
        self.stop_offset = stop_offset
        self.trail_offset = trail_offset
        self.trail_amount = trail_amount
        self.tif = tif
        self.outside_rth = outside_rth
        self.bracket = bracket
        self.risk = {rule: dict(parameters or {}) for rule, parameters in (risk or {}).items()}
        self.mode = mode
        self.wait_seconds = wait_seconds
        self.on_timeout = on_timeout
        self.allow_short = allow_short
        self._plan(Side.BUY)

    def run_task(self, context: Any, run: TaskRun) -> dict[str, Any]:
        """See the class.

        :raises OrderRejected: the broker refused the order; confirmed with the broker.
        :raises AmbiguousOrder: whether the broker has the order could not be established.
        """
        from airflow_ibkr_plugin.errors import OrderRejected
        from airflow_ibkr_plugin.trading.instruments import Instrument
        from airflow_ibkr_plugin.trading.orders import IntentState
        from airflow_ibkr_plugin.trading.signals import Action, Signal

        upstream = self.upstream(context, self.signal_task)
        signal = Signal.from_dict(upstream["signal"])
        instrument = Instrument.from_dict(upstream["market_data"]["instrument"])
        outcome: OrderOutcome | None
        if signal.action is Action.HOLD:
            outcome = self._finish_earlier(run, instrument)
        else:
            outcome = self._execute(run, instrument, signal, upstream["signal_id"])
        if outcome is None:
            self.log.info("%s: hold, nothing is sent", signal.symbol)
            return {"symbol": signal.symbol, "state": "hold", "signal_id": upstream["signal_id"]}
        self.log.info("%s: order %s is %s. %s", signal.symbol, outcome.order_ref, outcome.state, outcome.reason)
        if outcome.state is IntentState.REJECTED:
            raise OrderRejected(
                f"the broker refused order {outcome.order_ref} for {signal.symbol}: {outcome.reason}",
                remedy="Mend what the broker names; a new run decides anew.",
            )
        return {"signal_id": upstream["signal_id"], **outcome.to_dict()}

    def _finish_earlier(self, run: TaskRun, instrument: Instrument) -> OrderOutcome | None:
        """The signal was made anew and says hold, after an earlier try may have sent an order: that is finished."""
        from airflow_ibkr_plugin.execution.place import resume, unfinished
        from airflow_ibkr_plugin.execution.summary import record_order

        started = unfinished(
            self.database, dag_id=run.dag_id, run_id=run.run_id, task_id=run.task_id, con_id=instrument.con_id
        )
        outcome = None
        for order_ref in started:
            self.log.warning("%s: hold, but order %s may be at the broker; it is finished", instrument.name, order_ref)
            with self.broker(run) as broker:
                try:
                    outcome = resume(broker, self.database, order_ref, owner=run.owner, wait_seconds=self.wait_seconds)
                finally:
                    record_order(self.database, run.dag_id, run.run_id, order_ref)
        return outcome

    def _execute(self, run: TaskRun, instrument: Instrument, signal: Signal, signal_id: int) -> OrderOutcome:
        from airflow_ibkr_plugin.execution.place import execute
        from airflow_ibkr_plugin.execution.request import OrderRequest
        from airflow_ibkr_plugin.execution.summary import record_order
        from airflow_ibkr_plugin.registry import get_registry
        from airflow_ibkr_plugin.store.database import installation_id
        from airflow_ibkr_plugin.store.generations import Generations
        from airflow_ibkr_plugin.trading.orders import IntentKey, Side
        from airflow_ibkr_plugin.trading.signals import Action

        registry = get_registry()
        with self.database.write() as session:
            installation = installation_id(session)
            generation = Generations(session).current(run.dag_id, run.run_id, run.task_id, instrument.con_id)
        with self.broker(run) as broker:
            request = OrderRequest(
                key=IntentKey(
                    installation=installation,
                    dag_id=run.dag_id,
                    run_id=run.run_id,
                    task_id=run.task_id,
                    con_id=instrument.con_id,
                    generation=generation,
                ),
                strategy=self.strategy,
                source=broker.source,
                account=broker.account,
                mode=self.mode,
                instrument=instrument,
                ticket=self._plan(Side.BUY if signal.action is Action.BUY else Side.SELL),
                rules=tuple((registry.risk_rule(name), parameters) for name, parameters in self.risk.items()),
                signal=signal,
                signal_id=signal_id,
                wait_seconds=self.wait_seconds,
                leave_working=self.on_timeout == "leave",
                allow_short=self.allow_short,
            )
            try:
                return execute(broker, self.database, request, owner=run.owner)
            finally:
                record_order(self.database, run.dag_id, run.run_id, request.key.order_ref)

    def _plan(self, side: Side) -> TicketPlan:
        """:raises ConfigError: what the workflow says does not go together."""
        from airflow_ibkr_plugin.trading.brackets import BracketPlan
        from airflow_ibkr_plugin.trading.orders import OrderType, TimeInForce
        from airflow_ibkr_plugin.trading.plans import TicketPlan
        from airflow_ibkr_plugin.trading.sizing import Sizing

        return TicketPlan(
            side=side,
            sizing=Sizing.parse(self.sizing),
            order_type=OrderType(self.order_type),
            limit_offset=Decimal(str(self.limit_offset)),
            stop_offset=_decimal(self.stop_offset),
            trail_offset=_decimal(self.trail_offset),
            trail_amount=_decimal(self.trail_amount),
            tif=TimeInForce(self.tif),
            outside_rth=self.outside_rth,
            bracket=None if self.bracket is None else BracketPlan.parse(self.bracket),
        )


def _decimal(value: float | None) -> Decimal | None:
    return None if value is None else Decimal(str(value))
