"""Ask an analyst for a signal."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from airflow_ibkr_plugin.operators.base import IBKROperator, TaskRun


class SignalOperator(IBKROperator):
    """Loads the chart, asks the analyst with the configured prompt, validates the answer, stores it with the raw text.

    Returns the signal and its id.

    :param chart_task: id of the :class:`ChartOperator` task whose chart is read.
    :param analyst: name of a registered analyst, such as `rules` or `llm`.
    :param prompt: name of a registered prompt.
    :param analyst_parameters: parameters by the analyst's own schema.
    :param analyst_conn_id: Airflow connection of the analyst where it needs one.
    """

    template_fields: Sequence[str] = ("symbol",)
    ui_color = "#fdf1d6"

    def __init__(
        self,
        *,
        symbol: str | Mapping[str, Any],
        chart_task: str,
        analyst: str,
        prompt: str,
        analyst_parameters: Mapping[str, Any] | None = None,
        analyst_conn_id: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.symbol = symbol
        self.chart_task = chart_task
        self.analyst = analyst
        self.prompt = prompt
        self.analyst_parameters = dict(analyst_parameters or {})
        self.analyst_conn_id = analyst_conn_id

    def run_task(self, context: Any, run: TaskRun) -> dict[str, Any]:
        """See the class."""
        from airflow_ibkr_plugin.analysis.chart_storage import load_chart
        from airflow_ibkr_plugin.errors import AnalystError
        from airflow_ibkr_plugin.operators.data import load_bars
        from airflow_ibkr_plugin.registry import get_registry
        from airflow_ibkr_plugin.trading.analysts import AnalysisRequest
        from airflow_ibkr_plugin.trading.signals import validate_signal

        chart = self.upstream(context, self.chart_task)
        data = chart["market_data"]
        registry = get_registry()
        analyst_type = registry.analyst(self.analyst)
        prompt = registry.prompt(self.prompt)
        bars = load_bars(self.database, data)[-chart["bars"] :]
        request = AnalysisRequest(
            symbol=data["symbol"],
            bars=bars,
            bar_size=data["bar_size"],
            chart_png=load_chart(chart["url"], chart["sha256"]),
            chart_url=chart["url"],
            chart_sha256=chart["sha256"],
            prompt=prompt,
            as_of=bars[-1].time,
            parameters=self.analyst_parameters,
            connection_id=self.analyst_conn_id,
        )
        raw = ""
        try:
            answer = analyst_type.factory().analyse(request)
            raw = answer.raw
            signal = validate_signal(answer.signal, reference_price=bars[-1].close, symbol=data["symbol"])
        except AnalystError as error:
            self.log.error("the analyst's answer, word for word: %s", error.raw or raw)
            raise
        fields = {k: v for k, v in signal.to_dict().items() if k not in ("as_of", "analyst")}
        signal_id = self._store(
            run,
            data,
            **fields,
            as_of=signal.as_of,
            analyst=self.analyst,
            model=answer.model,
            is_llm=analyst_type.is_llm,
            prompt_name=prompt.name,
            prompt_version=prompt.version,
            prompt_sha256=hashlib.sha256(prompt.text.encode()).hexdigest(),
            chart_id=chart["chart_id"],
            raw=answer.raw,
            usage=dict(answer.usage),
        )
        what = answer.model if analyst_type.is_llm else f"{answer.model} (rules, not an LLM)"
        self.log.info("%s: %s with confidence %.2f by %s", signal.symbol, signal.action, signal.confidence, what)
        return {"signal_id": signal_id, "signal": signal.to_dict(), "market_data": data}

    def _store(self, run: TaskRun, data: Mapping[str, Any], **fields: Any) -> int:
        from airflow_ibkr_plugin.store.signals import Signals
        from airflow_ibkr_plugin.tracking.records import log_metrics, set_tags

        at = datetime.now(UTC)
        name = f"signal/{data['symbol']}"
        levels = {f"{name}/{k}": float(fields[k]) for k in ("entry", "stop", "target") if fields[k] is not None}
        usage = {f"{name}/usage/{k}": float(v) for k, v in fields["usage"].items()}
        direction = {"buy": 1.0, "sell": -1.0, "hold": 0.0}[fields["action"]]
        key = (run.dag_id, run.run_id)
        with self.database.write() as session:
            stored = Signals(session).add(
                dag_id=run.dag_id,
                run_id=run.run_id,
                task_id=run.task_id,
                strategy=self.strategy,
                con_id=data["instrument"]["con_id"],
                source=data["source"],
                created_at=at,
                **fields,
            )
            log_metrics(
                session,
                key,
                {f"{name}/confidence": fields["confidence"], f"{name}/direction": direction, **levels, **usage},
                at,
            )
            set_tags(
                session,
                key,
                {name: fields["action"], f"analyst/{data['symbol']}": f"{fields['analyst']}: {fields['model']}"},
                at,
            )
            return int(stored.id)
