"""The private loop: nothing that was begun on it goes on behind whoever began it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any

import pytest

from airflow_ibkr_plugin.broker.loop import PrivateLoop


class TimedOut(BaseException):
    """As Airflow raises it in a task whose time is over; here without Airflow, which ib_async's environment lacks."""


@contextmanager
def timeout() -> Iterator[None]:
    """As Airflow's own: the alarm raises in the main thread."""

    def ring(_: int, frame: object) -> None:
        raise TimedOut

    before = signal.signal(signal.SIGALRM, ring)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)


async def endless(begun: threading.Event, cancelled: threading.Event) -> None:
    begun.set()
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        cancelled.set()
        raise


def test_a_task_time_out_cancels_what_was_waited_for() -> None:
    loop, begun, cancelled = PrivateLoop("test"), threading.Event(), threading.Event()
    waiting = threading.get_ident()

    def alarm() -> None:
        assert begun.wait(60)
        while sys._current_frames()[waiting].f_code is not threading.Condition.wait.__code__:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGALRM)

    def wait() -> None:
        with timeout():
            threading.Thread(target=alarm).start()
            loop.run(endless(begun, cancelled))

    with pytest.raises(TimedOut):
        wait()
    assert cancelled.wait(60)
    loop.close()


@pytest.mark.parametrize("first", ["begun", "interrupted"])
def test_an_interrupt_just_behind_the_scheduling_cancels_it_too(first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, begun, cancelled = PrivateLoop("test"), threading.Event(), threading.Event()
    schedule, free = loop._loop.call_soon_threadsafe, threading.Event()

    def interrupted(*given: Any, **options: Any) -> None:
        monkeypatch.undo()
        if first == "interrupted":
            schedule(free.wait, 60)
        schedule(*given, **options)
        assert first == "interrupted" or begun.wait(60)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop._loop, "call_soon_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop.run(endless(begun, cancelled))
    free.set()
    assert loop.run(others()) == 0
    assert begun.is_set() == cancelled.is_set() == (first == "begun")
    loop.close()


async def others() -> int:
    """How many tasks are left on the loop once each has had its turn."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return len(asyncio.all_tasks()) - 1


def test_what_it_returns_raises_and_cancels_is_told() -> None:
    loop = PrivateLoop("test")

    async def fails() -> None:
        raise ZeroDivisionError

    async def gives_up() -> None:
        raise asyncio.CancelledError

    assert loop.run(others()) == 0
    with pytest.raises(ZeroDivisionError):
        loop.run(fails())
    with pytest.raises(CancelledError):
        loop.run(gives_up())
    loop.close()


def test_closed_it_cancels_what_still_runs_and_ends_its_thread() -> None:
    loop, begun, cancelled = PrivateLoop("test-closed"), threading.Event(), threading.Event()

    async def leave() -> asyncio.Task[None]:
        return asyncio.ensure_future(endless(begun, cancelled))

    task = loop.run(leave())
    assert begun.wait(60)
    loop.close()
    loop.close()
    assert task.cancelled()
    assert cancelled.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name == "test-closed"]
