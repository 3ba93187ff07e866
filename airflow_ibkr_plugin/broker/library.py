"""The only import of the client library: ib_insync 0.9.86, or ib_async 2.1.0 where that is installed instead.

The library is used as a codec: it frames, parses and pairs requests with answers. What it concludes by itself
(an order's status after an error, merged trades, cached tickers) is not used: see `journal.py`.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from typing import Any

from airflow_ibkr_plugin.errors import ConfigError

# Both install the top-level package `eventkit`, so an environment has one of them only.
LIBRARIES = ("ib_insync", "ib_async")


def load() -> Any:
    """Import the library and return its module.

    Its logger is set to WARNING unless a level was chosen for it: it writes a page for each message about an order.

    Must be called in a thread that has an event loop: ib_insync looks for one when it is imported.

    :raises ConfigError: neither is installed.
    """
    for name in LIBRARIES:
        if importlib.util.find_spec(name) is not None:
            if logging.getLogger(name).level == logging.NOTSET:
                logging.getLogger(name).setLevel(logging.WARNING)
            return importlib.import_module(name)
    raise ConfigError(
        "No IBKR client library is installed.",
        remedy="Install one: `pip install ib_insync==0.9.86` or `pip install ib_async==2.1.0`, not both.",
    )
