"""The gateway's own connection to IBKR: its login, its link to the servers, its data farms.

Texts and codes are those of IBKR's TWS API documentation, "Message codes"; the farms' names say that it is simulated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

Notice = tuple[int, str]

#: Real seconds that a restart or a fault may last.
MAX_SECONDS = 3600.0


class Login(StrEnum):
    """The gateway's session with IBKR."""

    VALID = "valid"
    CLOSE = "close"  # lost: the API port answers the handshake, then hangs up
    REFUSE = "refuse"  # lost: nothing listens, as while a gateway waits at its login window
    SECOND_FACTOR = "second_factor"  # the same, and only a person can go on: IBC's commands do not help
    RESTARTING = "restarting"  # nothing listens until the gateway is up again by itself


class Farm(StrEnum):
    """Servers that a gateway is connected to besides the one for orders."""

    MARKET = "market"
    HISTORY = "history"
    DEFINITIONS = "definitions"


class FarmState(StrEnum):
    """How such a connection stands."""

    OK = "ok"
    BROKEN = "broken"
    INACTIVE = "inactive"  # comes up by itself with the first request
    CONNECTING = "connecting"


FARM_NAMES = {Farm.MARKET: "simfarm", Farm.HISTORY: "simhmds", Farm.DEFINITIONS: "simsecdef"}

_ON_DEMAND = "connection is inactive but should be available upon demand."
#: What clients are told of each farm and state; those that are not here IBKR has no message for.
_FARM_NOTICES: dict[tuple[Farm, FarmState], Notice] = {
    (Farm.MARKET, FarmState.OK): (2104, "Market data farm connection is OK:"),
    (Farm.MARKET, FarmState.BROKEN): (2103, "Market data farm connection is broken:"),
    (Farm.MARKET, FarmState.INACTIVE): (2108, f"Market data farm {_ON_DEMAND}"),
    (Farm.MARKET, FarmState.CONNECTING): (2119, "Market data farm is connecting:"),
    (Farm.HISTORY, FarmState.OK): (2106, "HMDS data farm connection is OK:"),
    (Farm.HISTORY, FarmState.BROKEN): (2105, "HMDS data farm connection is broken:"),
    (Farm.HISTORY, FarmState.INACTIVE): (2107, f"HMDS data farm {_ON_DEMAND}"),
    (Farm.DEFINITIONS, FarmState.OK): (2158, "Sec-def data farm connection is OK:"),
    (Farm.DEFINITIONS, FarmState.BROKEN): (2157, "Sec-def data farm connection is broken:"),
}
LOST: Notice = (1100, "Connectivity between IBKR and Trader Workstation has been lost.")
BROKEN: Notice = (
    2110,
    "Connectivity between Trader Workstation and server is broken. It will be restored automatically.",
)
_RESTORED = "Connectivity between IBKR and Trader Workstation has been restored"

#: Requests that a gateway cannot answer by itself.
NEEDS_SERVER = frozenset(
    {
        "placeOrder",
        "cancelOrder",
        "reqGlobalCancel",
        "reqContractDetails",
        "reqMatchingSymbols",
        "reqMktData",
        "reqHistoricalData",
        "reqHeadTimeStamp",
        "reqHistoricalTicks",
        "reqRealTimeBars",
        "reqTickByTickData",
    }
)


@dataclass
class Link:
    """How the gateway stands with IBKR.

    :ivar online: False between 1100 and 1101 or 1102. What happens to orders meanwhile is learnt afterwards.
    """

    login: Login = Login.VALID
    online: bool = True
    farms: dict[Farm, FarmState] = field(default_factory=lambda: dict.fromkeys(Farm, FarmState.OK))

    def farm_notice(self, farm: Farm) -> Notice:
        """What clients are told of a farm as it is now."""
        code, text = _FARM_NOTICES[farm, self.farms[farm]]
        return code, text + FARM_NAMES[farm]

    def set_farm(self, farm: Farm, state: FarmState) -> Notice:
        """A farm's state has changed; what clients are told.

        :raises ValueError: IBKR has no message for that.
        """
        if (farm, state) not in _FARM_NOTICES:
            raise ValueError(f"IBKR has no message for a {farm} farm that is {state}")
        self.farms[farm] = state
        return self.farm_notice(farm)

    def welcome(self) -> list[Notice]:
        """What a client that connects is told."""
        return [*([] if self.online else [BROKEN]), *map(self.farm_notice, Farm)]

    def lose(self) -> list[Notice]:
        """The servers are out of reach."""
        self.online = False
        return [LOST, *(self.set_farm(farm, FarmState.BROKEN) for farm in Farm)]

    def restore(self, *, data_lost: bool) -> list[Notice]:
        """They are in reach again, with (1102) or without (1101) the market data subscriptions."""
        self.online = True
        up = [self.set_farm(farm, FarmState.OK) for farm in Farm]
        connected = f"All data farms are connected: {'; '.join(FARM_NAMES.values())}."
        notice = (1101, f"{_RESTORED} - data lost. {connected}")
        return [notice if data_lost else (1102, f"{_RESTORED} - data maintained. {connected}"), *up]
