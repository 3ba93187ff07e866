"""The private loop: nothing that was begun on it goes on behind whoever began it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time

import pytest
from airflow.sdk.exceptions import AirflowTaskTimeout
from airflow.sdk.execution_time.timeout import timeout

from airflow_ibkr_plugin.broker.loop import PrivateLoop


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
        with timeout(600):  # Airflow's own; the alarm comes earlier
            threading.Thread(target=alarm).start()
            loop.run(endless(begun, cancelled))

    with pytest.raises(AirflowTaskTimeout):
        wait()
    assert cancelled.wait(60)
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
