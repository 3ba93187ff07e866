"""Finds strategy packages by entry point and answers by name: which prompt, rule, task type, analyst."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, TypeVar

import pluggy

from airflow_ibkr_plugin import hookspecs
from airflow_ibkr_plugin.errors import ConfigError, PackageError
from airflow_ibkr_plugin.hookspecs import PROJECT, TaskType
from airflow_ibkr_plugin.trading.analysts import AnalystType, Prompt
from airflow_ibkr_plugin.trading.risk import RiskRule

ENTRY_POINT_GROUP = "airflow_ibkr_plugin.packages"


class _Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=_Named)


@dataclass(frozen=True, kw_only=True)
class Package:
    """A strategy package that was found: its entry point's name, its distribution, and why it is off ('' if on)."""

    name: str
    distribution: str
    version: str
    error: str = ""


@dataclass(frozen=True)
class Registry:
    """Everything that the loaded packages offer, by name. `owners` tells which package offers a thing."""

    prompts: Mapping[str, Prompt]
    risk_rules: Mapping[str, RiskRule]
    task_types: Mapping[str, TaskType]
    analysts: Mapping[str, AnalystType]
    packages: tuple[Package, ...]
    owners: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def prompt(self, name: str) -> Prompt:
        """:raises ConfigError: no loaded package offers it."""
        return _named("prompt", self.prompts, name)

    def risk_rule(self, name: str) -> RiskRule:
        """:raises ConfigError: no loaded package offers it."""
        return _named("risk rule", self.risk_rules, name)

    def task_type(self, name: str) -> TaskType:
        """:raises ConfigError: no loaded package offers it."""
        return _named("task type", self.task_types, name)

    def analyst(self, name: str) -> AnalystType:
        """:raises ConfigError: no loaded package offers it."""
        return _named("analyst", self.analysts, name)


def _named(kind: str, things: Mapping[str, T], name: str) -> T:
    try:
        return things[name]
    except KeyError:
        raise ConfigError(
            f"no {kind} is named {name!r}.",
            remedy=f"Known: {', '.join(sorted(things))}. Is the package that offers it installed?",
        ) from None


def build_registry(points: Iterable[EntryPoint], *, blocked: Iterable[str] = ()) -> Registry:
    """Load the packages behind the entry points; a package that fails is off, with its error, and harms no other.

    :param blocked: names of entry points that are not loaded.
    """
    off = set(blocked)
    packages: list[Package] = []
    found: dict[str, dict[str, Any]] = {kind: {} for kind in _HOOKS}
    owners: dict[tuple[str, str], str] = {}
    # What is built in comes first, so that a third party can never take a core name.
    for point in sorted(points, key=lambda p: (p.name != "builtin", p.name)):
        dist = point.dist
        label = {"distribution": dist.name if dist else "", "version": dist.version if dist else ""}
        if point.name in off:
            packages.append(Package(name=point.name, error="blocked by [ibkr] packages_blocked", **label))
            continue
        try:
            offered = _load(point, owners)
        except Exception as error:  # noqa: BLE001  third-party import; its failure is recorded, shown, and its own
            packages.append(Package(name=point.name, error=f"{type(error).__name__}: {error}", **label))
            continue
        for kind, things in offered.items():
            for thing in things:
                found[kind][thing.name] = thing
                owners[kind, thing.name] = point.name
        packages.append(Package(name=point.name, **label))
    return Registry(**found, packages=tuple(packages), owners=owners)


_HOOKS: dict[str, tuple[str, type[Any]]] = {
    "prompts": ("ibkr_prompts", Prompt),
    "risk_rules": ("ibkr_risk_rules", RiskRule),
    "task_types": ("ibkr_task_types", TaskType),
    "analysts": ("ibkr_analysts", AnalystType),
}


def _load(point: EntryPoint, owners: Mapping[tuple[str, str], str]) -> dict[str, list[Any]]:
    """Ask one package alone, so that whatever is wrong is known to be its own."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(point.load(), name=point.name)
    manager.check_pending()
    offered: dict[str, list[Any]] = {}
    thing: Any
    for kind, (hook, expected) in _HOOKS.items():
        things = [thing for answer in getattr(manager.hook, hook)() for thing in answer]
        names: set[str] = set()
        for thing in things:
            if not isinstance(thing, expected):
                raise PackageError(f"{hook} returned {thing!r}, not a {expected.__name__}.")
            owner = point.name if thing.name in names else owners.get((kind, thing.name))
            if owner is not None:
                raise PackageError(
                    f"{kind} {thing.name!r} of package {point.name!r} is already offered by package {owner!r}.",
                    remedy="Rename one, or block a package with [ibkr] packages_blocked.",
                )
            names.add(thing.name)
        offered[kind] = things
    return offered


@cache
def get_registry() -> Registry:
    """The registry of this process: installed packages less those blocked by `[ibkr] packages_blocked`."""
    from airflow_ibkr_plugin import settings

    return build_registry(entry_points(group=ENTRY_POINT_GROUP), blocked=settings.load().packages_blocked)
