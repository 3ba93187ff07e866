"""JSON merge patches (RFC 7396): how an override is laid over a workflow."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

# What an override in the trading database can never change. What a strategy is called, where its orders go and
# whether with real money is said in the file, by whoever answers for the file.
FIXED_FIELDS = ("id", "mode", "connection", "package", "strategies")


def merge(target: Any, patch: Any) -> Any:
    """`MergePatch(target, patch)` of RFC 7396, section 2: mappings merge, `null` removes, all else replaces.

    Returns new values; neither argument is changed or shared.
    """
    if not isinstance(patch, Mapping):
        return deepcopy(patch)
    result = deepcopy(dict(target)) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge(result.get(name), value)
    return result


def refused_fields(patch: Mapping[str, Any]) -> list[str]:
    """Why an override cannot be laid over a workflow; empty if it can.

    Refused are the :data:`FIXED_FIELDS`, and whatever would remove a risk rule: overrides can only tighten.
    """
    faults = [
        f"{name!r} cannot be overridden; change it in the workflow's file." for name in FIXED_FIELDS if name in patch
    ]
    if "risk" in patch:
        risk = patch["risk"]
        if not isinstance(risk, Mapping):
            faults.append("'risk' must be a mapping of rules; an override cannot remove or replace all rules.")
        else:
            faults += [
                f"'risk.{rule}' cannot be removed by an override; remove it in the workflow's file."
                for rule, parameters in risk.items()
                if parameters is None
            ]
    return faults
