"""Our book of the account, held against the broker's."""

from __future__ import annotations

from typing import Any, Literal

from airflow_ibkr_plugin.operators.base import BrokerOperator, TaskRun


class ReconcileOperator(BrokerOperator):
    """Reconciles the account of the connection, and stores what is found. Returns it.

    Strategies concerned by a difference are set to REDUCING and people are told, whatever this task does then.

    :param on_disagreement: `fail`, or `go_on` so that the run goes on with strategies that only close.
    :param scope: `account` to fail for any difference of the account, `strategy` for this strategy's alone.
    """

    ui_color = "#e0f0e3"

    def __init__(
        self,
        *,
        on_disagreement: Literal["fail", "go_on"] = "fail",
        scope: Literal["account", "strategy"] = "account",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.on_disagreement = on_disagreement
        self.scope = scope

    def run_task(self, context: Any, run: TaskRun) -> dict[str, Any]:
        """See the class.

        :raises BooksDisagree: something differs that nobody has accepted.
        :raises BrokerError: it could not be made, which is stored: nothing new is opened until one can.
        """
        from airflow_ibkr_plugin.errors import BooksDisagree
        from airflow_ibkr_plugin.execution.reconcile import accept_command, reconcile

        with self.broker(run) as session:
            found = reconcile(session, self.database, by=run.owner)
        shown = found.concerning(self.strategy) if self.scope == "strategy" else found
        for one in shown.differences:
            self.log.warning("%s%s", "accepted: " if one.accepted else "", one)
        if shown.open and self.on_disagreement == "fail":
            raise BooksDisagree(
                f"Books of the account disagree with the broker, reconciliation {found.id}:"
                f" {'; '.join(str(one) for one in shown.open)}",
                remedy=f"Find out why; then `{accept_command(found.id)}`, and resume the strategy.",
            )
        return shown.to_dict()
