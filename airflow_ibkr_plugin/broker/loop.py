"""A thread with an event loop of its own, for one broker session."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


class PrivateLoop:
    """Runs coroutines on its own thread, so that no loop of the caller (or none) matters, and no two sessions meet.

    A plain selector loop: the process may have a policy (uvloop) that the client libraries cannot be imported under.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run to the end and return or raise what the coroutine does. From any thread but the private one.

        An exception that interrupts the waiting (a task's time-out, Ctrl-C) cancels the coroutine.
        """
        done: Future[T] = Future()  # there before anything is begun: the interrupt may come at any moment
        try:
            self._loop.call_soon_threadsafe(self._begin, coroutine, done)
            return done.result()
        except BaseException:
            done.cancel()
            raise

    def _begin(self, coroutine: Coroutine[Any, Any, T], done: Future[T]) -> None:
        if done.cancelled():
            coroutine.close()
            return
        task = self._loop.create_task(coroutine)
        task.add_done_callback(partial(_tell, done))
        done.add_done_callback(lambda _: self._loop.call_soon_threadsafe(task.cancel) if done.cancelled() else None)

    def close(self) -> None:
        """Cancel what still runs, stop the loop and end the thread. A second call does nothing."""
        if self._loop.is_closed():
            return
        self.run(_cancel_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _tell(done: Future[T], task: asyncio.Task[T]) -> None:
    if task.cancelled():
        done.cancel()
    elif done.set_running_or_notify_cancel():
        if (error := task.exception()) is not None:
            done.set_exception(error)
        else:
            done.set_result(task.result())


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
