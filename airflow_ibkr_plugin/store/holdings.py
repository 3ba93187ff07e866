"""A holding as the sum of its fills, by the average-cost method that IBKR's account window uses."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from airflow_ibkr_plugin.store.types import exact

ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Holding:
    """What fills add up to.

    At any time, the sum of all cash paid and received is `realized_pnl - quantity * average_cost` (to the cent).

    :param quantity: negative when short.
    :param average_cost: per unit, commissions of the opening fills in: added when long, taken off when short.
    :param realized_pnl: of what was closed, after commissions on both sides.
    """

    quantity: Decimal = ZERO
    average_cost: Decimal = ZERO
    realized_pnl: Decimal = ZERO

    def after(self, change: Decimal, price: Decimal, commission: Decimal = ZERO) -> Holding:
        """The holding after a fill.

        :param change: signed quantity, positive for a buy; not 0.
        :param commission: > 0 where it was paid, < 0 for a rebate. A fill that goes through zero splits it by
            quantity between what it closes and what it opens.
        """
        quantity = self.quantity + change
        if self.quantity * change >= 0:  # opens, or adds
            cost = self.quantity * self.average_cost + change * price + commission
            return Holding(quantity, exact(cost / quantity), self.realized_pnl)
        closed = min(abs(change), abs(self.quantity)).copy_sign(self.quantity)
        closing_commission = commission if abs(change) <= abs(self.quantity) else exact(commission * -closed / change)
        realized = exact(self.realized_pnl + closed * (price - self.average_cost) - closing_commission)
        if quantity * self.quantity > 0:
            return Holding(quantity, self.average_cost, realized)
        flat = Holding(realized_pnl=realized)
        return flat.after(quantity, price, commission - closing_commission) if quantity else flat

    def split(
        self, new_shares: Decimal, old_shares: Decimal, paid_out: Decimal = ZERO, price: Decimal = ZERO
    ) -> Holding:
        """The holding after so many new shares for each old ones, for the same cost.

        :param paid_out: of the new shares, signed as the quantity: a fraction that was paid out in cash at `price`.
        """
        if not self.quantity:
            return self
        quantity = exact(self.quantity * new_shares / old_shares)
        split = Holding(quantity, exact(self.average_cost * old_shares / new_shares), self.realized_pnl)
        return split.after(-paid_out, price) if paid_out else split
