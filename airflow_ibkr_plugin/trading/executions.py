"""What IBKR's execIds say of executions. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar


class _HasExecId(Protocol):
    @property
    def exec_id(self) -> str: ...


T = TypeVar("T", bound=_HasExecId)


def fill_of(exec_id: str) -> tuple[str, int]:
    """The fill that an execId is about, and which version of it.

    IBKR corrects an execution by another whose id differs only in the digits behind the last period: `.02` is in
    place of `.01`. Source: TWS API, class Execution, ExecId. An id that does not end in digits has one version.
    """
    fill, dot, version = exec_id.rpartition(".")
    return (fill, int(version)) if dot and version.isascii() and version.isdigit() else (exec_id, 0)


def in_force(executions: Iterable[T]) -> list[T]:
    """The executions without those that a later version corrects, in the order given."""
    found = list(executions)
    newest: dict[str, int] = {}
    for one in found:
        fill, version = fill_of(one.exec_id)
        newest[fill] = max(newest.get(fill, 0), version)
    return [one for one in found if fill_of(one.exec_id)[1] == newest[fill_of(one.exec_id)[0]]]
