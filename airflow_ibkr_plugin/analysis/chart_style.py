"""Colours and the left margin (pixels) that all parts of a chart share."""

from __future__ import annotations

UP, DOWN = "#26a69a", "#ef5350"
INK, FAINT, GRID = "#1f2933", "#66727f", "#e6e9ed"
LABEL_BACK, LABEL_INK = "#fff3cd", "#7a4d00"
LINES = ("#2962ff", "#ff6d00", "#8e24aa", "#00838f", "#6d4c41", "#c2185b", "#9e9d24", "#455a64")
LEFT = 10
