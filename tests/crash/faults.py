"""What goes wrong at the gateway, and which of its commands are no faults of the order path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from boundaries import PLACED, Trigger

Commands = tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Fault:
    """What goes wrong at the gateway.

    :param armed: control commands before the first try. :param of_order: they are for the case's order alone.
    :param triggers: what happens at a boundary of the first try. :param mended: control commands after it.
    :param refuses: the task may fail for good, if nothing was sent. :param all_cancelled: somebody cancels in TWS all
        that works, after a first try that did not come to its end.
    """

    name: str
    armed: Commands = ()
    of_order: bool = True
    triggers: tuple[Trigger, ...] = ()
    mended: Commands = ()
    refuses: bool = False
    all_cancelled: bool = False

    @property
    def commands(self) -> set[str]:
        """The names of all commands that it gives."""
        given = (*self.armed, *self.mended, *(t.command for t in self.triggers if t.command))
        return {command["cmd"] for command in given}


def _armed(name: str, cmd: str = "", *, of_order: bool = True, mended: Commands = (), **arguments: Any) -> Fault:
    return Fault(name, ({"cmd": cmd or name, **arguments},), of_order, mended=mended)


def _placed(
    name: str, after: bool, cmd: str, mended: Commands = (), *, refuses: bool = False, **arguments: Any
) -> Fault:
    triggers = (Trigger(PLACED, 1, after, {"cmd": cmd, **arguments}),)
    return Fault(name, triggers=triggers, mended=mended, refuses=refuses)


def _data(name: str, access: str) -> Fault:
    live: Commands = ({"cmd": "market_data", "access": "live"},)
    return Fault(name, ({"cmd": "market_data", "access": access},), of_order=False, mended=live, refuses=True)


NO_FAULT = Fault("none")
_RESTORED: Commands = ({"cmd": "connectivity", "state": "restored_data_lost"},)
_LOGGED_IN: Commands = ({"cmd": "login"},)
_FARM: Commands = ({"cmd": "farm", "farm": "market", "state": "ok"},)
_HEARD: Commands = ({"cmd": "mute", "messages": []},)
_ORDERS, _FILLS = ["openOrder", "orderStatus"], ["execDetails", "commissionReport"]
_ENDS = ["execDetailsEnd", "openOrderEnd", "completedOrdersEnd"]
FAULTS = (
    NO_FAULT,
    _armed("missing_acknowledgement"),
    _armed("lose_order"),
    _armed("drop_before_accept"),
    _armed("drop_after_accept"),
    _armed("duplicate_status", count=9),
    _armed("fill before status", "reorder", how="fill_before_status"),
    _armed("statuses backwards", "reorder", how="status_backwards"),
    _armed("commission before fill", "reorder", how="commission_before_execution"),
    _armed("second_perm_id"),
    _armed("unnamed_fill", count=3),
    _armed("roll_back_ids", of_order=False, by=20, count=3),
    _armed("late statuses", "delay", of_order=False, messages=_ORDERS, seconds=0.2, count=6),
    _armed("overtaken fills", "delay", of_order=False, messages=_FILLS, seconds=0.2, count=6, keep_order=False),
    _armed("late answers", "delay", of_order=False, messages=_ENDS, seconds=0.4, count=6),
    _armed("answers never end", "mute", of_order=False, messages=_ENDS, mended=_HEARD),
    _armed("keep_client_id", of_order=False, seconds=0.5),
    _armed("farm broken", "farm", of_order=False, farm="market", state="broken", mended=_FARM),
    _data("data delayed", "delayed"),
    _data("data none", "none"),
    _placed("message_rate", False, "message_rate"),
    _placed("link lost before sending", False, "connectivity", _RESTORED, state="lost"),
    _placed("link lost after sending", True, "connectivity", _RESTORED, state="lost"),
    _placed("restart before sending", False, "restart", seconds=0.2),
    _placed("restart after sending", True, "restart", seconds=0.2),
    _placed("logged out before sending", False, "logout", _LOGGED_IN, mode="close"),
    _placed("logged out after sending", True, "logout", _LOGGED_IN, mode="refuse"),
    _placed("second factor wanted", True, "logout", _LOGGED_IN, mode="second_factor"),
    _placed("cut after sending", True, "drop"),
    _placed("false rejection", True, "error", code=201, message="Order rejected - reason: it was not"),
    _placed("false cancel", True, "error", code=202, message="Order Canceled - reason:"),
    _placed("unknown error", True, "error", code=10000, message="Nobody knows"),
    _placed("completed_order", True, "completed_order"),
    _placed("order by hand", False, "manual_order", refuses=True, symbol="SPY", action="BUY", quantity=5),
    Fault("cancelled in TWS", all_cancelled=True),
)

#: Why the other commands of the control port cannot matter here.
NO_FAULTS = {
    "help": "tells",
    "status": "tells",
    "orders": "tells",
    "disarm": "mends",
    "clock": "moves to the next day between batches; orders over midnight: tests/execution/test_recover.py",
    "split": "a corporate action, of the books and not of an order; it has tests of its own",
    "pacing": "refuses requests for history, and the order path makes none",
    "pacing_rules": "as pacing",
}
