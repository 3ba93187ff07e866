"""The TWS socket protocol: framing, field tables with version gates, and the one codec that reads them."""
