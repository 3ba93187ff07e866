"""A trigger that looks from time to time, each look in a thread of its own, never in the triggerer's loop."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_ibkr_plugin import errors
from airflow_ibkr_plugin.errors import Family, IBKRPluginError

if TYPE_CHECKING:
    from airflow_ibkr_plugin.execution.waiting import Status


class PollTrigger(BaseTrigger):
    """Looks every `poke_interval` seconds until ready. An error that waiting may mend is logged and looked past.

    :param gateway: `GatewaySpec.to_dict()`; it holds no secret.
    :param owner: the task instance that waits, for leases.
    """

    def __init__(self, *, gateway: Mapping[str, Any], poke_interval: float, owner: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.gateway = dict(gateway)
        self.poke_interval = poke_interval
        self.owner = owner

    @abstractmethod
    def look(self) -> Status:
        """Look once; blocking."""

    def parameters(self) -> dict[str, Any]:
        """Further constructor arguments of a subclass."""
        return {}

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """See the base class."""
        path = f"{type(self).__module__}.{type(self).__name__}"
        common = {"gateway": self.gateway, "poke_interval": self.poke_interval, "owner": self.owner}
        return path, common | self.parameters()

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """See the base class."""
        # Its own thread: a look may take minutes, and the loop's few default threads serve all triggers.
        looker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ibkr-look")
        try:
            while (event := await self._look(looker)) is None:
                await asyncio.sleep(self.poke_interval)
        finally:
            looker.shutdown(wait=False, cancel_futures=True)
        yield event

    async def _look(self, looker: ThreadPoolExecutor) -> TriggerEvent | None:
        try:
            status = await asyncio.get_running_loop().run_in_executor(looker, self.look)
        except IBKRPluginError as error:
            if error.family in (Family.FATAL, Family.NEEDS_HUMAN):
                return TriggerEvent({"error": type(error).__name__, "message": error.message, "remedy": error.remedy})
            self.log.warning("not yet: %s", error)
            return None
        self.log.info("%s", status.detail)
        return TriggerEvent({"detail": status.detail}) if status.ready else None


def raise_from_event(event: Mapping[str, Any]) -> None:
    """:raises IBKRPluginError: the class that the trigger met, with its message and remedy."""
    if "error" not in event:
        return
    cls = getattr(errors, event["error"], IBKRPluginError)
    raise cls(event["message"], remedy=event["remedy"])
