"""JSON Schemas (2020-12) of the built-in analysts' parameters, and how defaults are filled in from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RULES: Mapping[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "strategy": {
            "enum": ["momentum", "mean_reversion"],
            "default": "momentum",
            "description": "Go with the trend of two averages, or back to the slow average.",
        },
        "fast": {"type": "integer", "minimum": 2, "maximum": 500, "default": 10, "description": "Bars, fast average."},
        "slow": {"type": "integer", "minimum": 3, "maximum": 1000, "default": 30, "description": "Bars, slow average."},
        "atr_period": {
            "type": "integer",
            "minimum": 2,
            "maximum": 500,
            "default": 14,
            "description": "Bars, ATR.",
        },
        "threshold": {
            "type": "number",
            "minimum": 0,
            "maximum": 20,
            "description": "How far is far enough to act. momentum: distance of the averages in ATRs (default 0.25); "
            "mean_reversion: distance from the slow average in standard deviations (default 2).",
        },
        "stop_atr": {
            "type": "number",
            "minimum": 0.1,
            "maximum": 20,
            "default": 2,
            "description": "Distance of the stop from the last close, in ATRs.",
        },
        "target_atr": {
            "type": "number",
            "minimum": 0.1,
            "maximum": 40,
            "default": 3,
            "description": "momentum only: distance of the target from the last close, in ATRs.",
        },
        "horizon_days": {"type": "integer", "minimum": 1, "maximum": 3650, "default": 10},
    },
}

LLM: Mapping[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "timeout_seconds": {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": 600,
            "default": 90,
            "description": "Deadline of the whole question, second chances included.",
        },
        "max_tokens": {
            "type": "integer",
            "minimum": 1,
            "maximum": 100000,
            "default": 4000,
            "description": "Longest single answer, reasoning included.",
        },
        "max_total_tokens": {
            "type": "integer",
            "minimum": 1,
            "maximum": 1000000,
            "default": 30000,
            "description": "All tokens of one question, sent and received; checked after each answer.",
        },
        "temperature": {"type": "number", "minimum": 0, "maximum": 2, "default": 0},
    },
}


def with_defaults(schema: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The given parameters, and the schema's default for each that is absent and has one."""
    defaults = {name: p["default"] for name, p in schema["properties"].items() if "default" in p}
    return {**defaults, **given}
