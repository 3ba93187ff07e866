"""Cash, positions, and the figures that derive from them."""
