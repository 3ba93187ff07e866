"""Draw a chart from cached bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from airflow_ibkr_plugin.operators.base import IBKROperator, TaskRun


class ChartOperator(IBKROperator):
    """Candlesticks, volume and indicators as a PNG in Airflow's ObjectStorage; its metadata in the database.

    Returns the chart's id, URL and sha256 together with what the chart was drawn from.

    :param symbol: what is drawn; shown as the mapped task's name.
    :param market_data_task: id of the :class:`MarketDataOperator` task whose bars are drawn.
    :param bars: how many of the newest bars are drawn; those before them warm the indicators up.
    :param indicators: `[{"name": "sma", "period": 20}, ...]`, see docs/analysts.md.
    """

    template_fields: Sequence[str] = ("symbol",)
    ui_color = "#e9e4f5"

    def __init__(
        self,
        *,
        symbol: str | Mapping[str, Any],
        market_data_task: str,
        bars: int = 150,
        indicators: Sequence[Mapping[str, Any]] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.symbol = symbol
        self.market_data_task = market_data_task
        self.bars = bars
        self.indicators = [dict(indicator) for indicator in indicators]

    def run_task(self, context: Any, run: TaskRun) -> dict[str, Any]:
        """See the class."""
        from airflow_ibkr_plugin import settings
        from airflow_ibkr_plugin.analysis.chart_storage import save_chart
        from airflow_ibkr_plugin.analysis.charts import draw_chart
        from airflow_ibkr_plugin.operators.data import chart_label, load_bars
        from airflow_ibkr_plugin.store.charts import Charts
        from airflow_ibkr_plugin.tracking.records import log_artifact

        data = self.upstream(context, self.market_data_task)
        image = draw_chart(
            load_bars(self.database, data),
            shown=self.bars,
            symbol=data["symbol"],
            bar_size=data["bar_size"],
            indicators=self.indicators,
            label=chart_label(data),
        )
        safe = data["symbol"].replace("/", "-")
        url = save_chart(image, settings.load().charts_url, f"{run.dag_id}/{safe}-{image.sha256[:16]}.png")
        at = datetime.now(UTC)
        with self.database.write() as session:
            chart = Charts(session).add(
                dag_id=run.dag_id,
                run_id=run.run_id,
                task_id=run.task_id,
                symbol=data["symbol"],
                con_id=data["instrument"]["con_id"],
                source=data["source"],
                url=url,
                sha256=image.sha256,
                size_bytes=len(image.png),
                width=image.width,
                height=image.height,
                bar_size=data["bar_size"],
                first_bar=image.first_bar,
                last_bar=image.last_bar,
                indicators=self.indicators,
                created_at=at,
            )
            log_artifact(session, (run.dag_id, run.run_id), url, "charts", image.sha256, at)
            chart_id = chart.id
        self.log.info("%s: chart of %d bars at %s", data["symbol"], image.bars, url)
        return {"chart_id": chart_id, "url": url, "sha256": image.sha256, "bars": image.bars, "market_data": data}
