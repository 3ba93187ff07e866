"""What IBKR's execIds say of executions. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Protocol, TypeVar


class _HasExecId(Protocol):
    @property
    def exec_id(self) -> str: ...


class _Stored(_HasExecId, Protocol):
    @property
    def taken_back_on(self) -> date | None: ...


T = TypeVar("T", bound=_HasExecId)
S = TypeVar("S", bound=_Stored)


def fill_of(exec_id: str) -> tuple[str, int]:
    """The fill that an execId is about, and which version of it.

    IBKR corrects an execution by another whose id differs only in the digits behind the last period: `.02` is in
    place of `.01`. Source: TWS API, class Execution, ExecId. An id that does not end in digits has one version.
    """
    fill, dot, version = exec_id.rpartition(".")
    return (fill, int(version)) if dot and version.isascii() and version.isdigit() else (exec_id, 0)


def newest(executions: Iterable[T]) -> list[T]:
    """The executions without those that a later version corrects, in the order given."""
    found = list(executions)
    latest: dict[str, int] = {}
    for one in found:
        fill, version = fill_of(one.exec_id)
        latest[fill] = max(latest.get(fill, 0), version)
    return [one for one in found if fill_of(one.exec_id)[1] == latest[fill_of(one.exec_id)[0]]]


def in_force(executions: Iterable[S]) -> list[S]:
    """Of stored executions those that count: the newest of each fill, unless IBKR has taken it back.

    What a version that was taken back had corrected does not count again.
    """
    return [one for one in newest(executions) if one.taken_back_on is None]
