"""Charts, indicators, prompts and the analysts that turn a chart into a signal."""
