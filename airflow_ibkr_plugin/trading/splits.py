"""Whether a split explains what an account holds, and what becomes of each holder's part. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_DOWN, Decimal
from fractions import Fraction

#: Whose part of an account's position: the source and the strategy; strategy '' for what no book explains.
Holder = tuple[str, str]

# Prices tell a ratio as exactly as their ticks let them; nobody splits 101 for 100.
_LARGEST_TERM = 100
_TOLERANCE = 0.01
# The books keep ten places, so that thirds of a share do not add up; what is left of that is no fraction of a share.
_PLACES = Decimal(1).scaleb(-10)
_ROUNDING = Decimal(1).scaleb(-8)


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """`new` shares for each `old` ones, both whole, with no common factor, not equal."""

    new: int
    old: int

    def __str__(self) -> str:
        return f"{self.new} for {self.old}"

    def of(self, quantity: Decimal) -> Decimal:
        """The quantity after the split, fractions in, to the places of the books."""
        return (quantity * self.new / self.old).quantize(_PLACES).normalize()


@dataclass(frozen=True, kw_only=True)
class HolderFill:
    """A fill of the broker's day in the contract; `change` is signed."""

    holder: Holder
    change: Decimal
    time: datetime


@dataclass(frozen=True, kw_only=True)
class SplitPlan:
    """How a split explains the position.

    :param at: when it took effect, as far as fills tell: before the first fill that was made in new shares.
    :param after: what each holder holds now. :param paid_out: of whose fraction so much was paid out in cash; with
        what does not add up in the last place.
    """

    ratio: Ratio
    at: datetime
    after: Mapping[Holder, Decimal]
    paid_out: Mapping[Holder, Decimal]


def ratio_of(factor: float) -> Ratio | None:
    """The ratio behind a factor by which prices fell: 4.001 is 4 for 1, 0.1 is 1 for 10. None if there is none."""
    if not 1 / _LARGEST_TERM <= factor <= _LARGEST_TERM:
        return None
    for most in (1, 2, 3, 5, 10, 20, 50, _LARGEST_TERM):  # the simplest that fits
        near = Fraction(factor).limit_denominator(most)
        if near and abs(float(near) / factor - 1) <= _TOLERANCE:
            return Ratio(new=near.numerator, old=near.denominator) if near != 1 else None
    return None


def parse_ratio(text: str) -> Ratio | None:
    """`4:1` as a person writes it; None if it is no ratio."""
    new, colon, old = text.partition(":")
    if not (colon and new.isascii() and new.isdigit() and old.isascii() and old.isdigit() and int(new) and int(old)):
        return None
    ratio = Fraction(int(new), int(old))
    return None if ratio == 1 else Ratio(new=ratio.numerator, old=ratio.denominator)


def plan(
    held: Mapping[Holder, Decimal], fills: Sequence[HolderFill], account: Decimal, ratio: Ratio, now: datetime
) -> SplitPlan | None:
    """How a split of this ratio makes the holders' parts into what the account holds; None where it does not.

    A fraction of a share in the account's whole position is paid out in cash. Where several moments of the day explain
    the position, one without a fraction goes before the others, and then the latest.

    :param held: each holder's part by our books, fills of today in. :param fills: of today, oldest first.
    :param account: what the broker says that the account holds. :param now: the broker's clock.
    """
    moments = [_at(held, fills, first_new, account, ratio, now) for first_new in range(len(fills), -1, -1)]
    found = [one for one in moments if one is not None]
    return min(found, key=lambda one: abs(sum(one.paid_out.values(), Decimal(0))) > _ROUNDING, default=None)


def _at(
    held: Mapping[Holder, Decimal],
    fills: Sequence[HolderFill],
    first_new: int,
    account: Decimal,
    ratio: Ratio,
    now: datetime,
) -> SplitPlan | None:
    """The same for a split just before one of the fills, or after all of them."""
    later = fills[first_new:]
    before = dict(held)
    for fill in later:
        before[fill.holder] = before.get(fill.holder, Decimal(0)) - fill.change
    total = ratio.of(sum(before.values(), Decimal(0)))
    traded = sum((fill.change for fill in later), Decimal(0))
    fraction = total - total.to_integral_value(ROUND_DOWN)
    if not any(before.values()) or account not in (total + traded, total - fraction + traded):
        return None
    split = {holder: ratio.of(quantity) for holder, quantity in before.items() if quantity}
    paid = _share_out(split, sum(split.values(), traded) - account)
    after = {holder: quantity - paid.get(holder, Decimal(0)) for holder, quantity in split.items()}
    for fill in later:
        after[fill.holder] = after.get(fill.holder, Decimal(0)) + fill.change
    if later:
        at = later[0].time - timedelta(microseconds=1)
    else:  # the broker's clock may be a part of a second behind the time of its last fill
        at = max([now, *(fill.time + timedelta(microseconds=1) for fill in fills)])
    return SplitPlan(ratio=ratio, at=at, after=after, paid_out=paid)


def _share_out(split: Mapping[Holder, Decimal], fraction: Decimal) -> dict[Holder, Decimal]:
    """Whose it is that the parts have more than the account: the largest fractions first; nobody's where it is 0."""
    paid: dict[Holder, Decimal] = {}
    left = fraction
    own = {holder: quantity - quantity.to_integral_value(ROUND_DOWN) for holder, quantity in split.items()}
    for holder in sorted(own, key=lambda one: (-abs(own[one]), one)):
        if left and own[holder] * left > 0:
            part = min(abs(own[holder]), abs(left)).copy_sign(left)
            paid[holder] = part
            left -= part
    if left:  # parts of both signs, or the last place: the largest holder's
        largest = max(split, key=lambda one: (abs(split[one]), one))
        paid[largest] = paid.get(largest, Decimal(0)) + left
    return paid
