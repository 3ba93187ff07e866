"""How a trigger looks again and again: what ends the wait, what does not, and in which thread it looks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from airflow_ibkr_plugin import errors
from airflow_ibkr_plugin.errors import (
    AmbiguousContract,
    AmbiguousOrder,
    BrokerTimeout,
    Family,
    GatewayUnavailable,
    IBKRPluginError,
    UnknownContract,
)
from airflow_ibkr_plugin.execution.waiting import Status
from airflow_ibkr_plugin.triggers.poll import PollTrigger, raise_from_event

NOT_YET = Status(ready=False, detail="not yet")
READY = Status(ready=True, detail="there it is")


class Script(PollTrigger):
    """Sees one thing after the other."""

    def __init__(self, *seen: Status | Exception | Callable[[], Status]) -> None:
        super().__init__(gateway={}, poke_interval=0, owner="test")
        self.seen = list(seen)

    def look(self) -> Status:
        seen = self.seen.pop(0)
        if isinstance(seen, Exception):
            raise seen
        return seen() if callable(seen) else seen


async def event_of(trigger: PollTrigger) -> dict[str, Any]:
    async for event in trigger.run():
        return dict(event.payload)
    raise AssertionError("no event")


def test_it_looks_until_ready() -> None:
    trigger = Script(NOT_YET, GatewayUnavailable("gone"), BrokerTimeout("late"), NOT_YET, READY, READY)
    assert asyncio.run(event_of(trigger)) == {"detail": "there it is"}
    assert trigger.seen == [READY]


@pytest.mark.parametrize("error", [UnknownContract("no NOSUCH.", remedy="Check it."), AmbiguousOrder("unknown.")])
def test_an_error_that_waiting_cannot_mend_arrives_as_itself(error: IBKRPluginError) -> None:
    event = asyncio.run(event_of(Script(NOT_YET, error, READY)))
    with pytest.raises(type(error)) as caught:
        raise_from_event(event)
    assert type(caught.value) is type(error)
    assert (caught.value.message, caught.value.remedy) == (error.message, error.remedy)


def test_every_class_that_ends_a_wait_can_be_raised_from_its_event() -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, IBKRPluginError)]
    ending = [c for c in classes if c.family in (Family.FATAL, Family.NEEDS_HUMAN)]
    assert AmbiguousContract in ending
    for cls in ending:
        with pytest.raises(cls):
            raise_from_event({"error": cls.__name__, "message": "m", "remedy": "r"})


def test_any_other_error_fails_the_trigger() -> None:
    with pytest.raises(ZeroDivisionError):
        asyncio.run(event_of(Script(ZeroDivisionError())))


def test_a_long_look_keeps_neither_the_loop_nor_its_threads_from_others() -> None:
    release = threading.Event()

    def long_look() -> Status:
        assert release.wait(30)
        return READY

    async def main() -> list[dict[str, Any]]:
        # More than the loop's default executor has threads at most (32).
        waiting = [asyncio.create_task(event_of(Script(long_look))) for _ in range(40)]
        await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.to_thread(release.set), 20)
        return await asyncio.gather(*waiting)

    assert asyncio.run(main()) == [{"detail": "there it is"}] * 40
