"""`python -m benchmarks [broker] [simulator] [imports] [pipeline]`: all of them, or those named."""

from __future__ import annotations

import sys

from benchmarks import broker_seam, exactly_once, import_cost, pipeline, reconcile, risk, simulator

ALL = {
    "broker": broker_seam.main,
    "simulator": simulator.main,
    "risk": risk.main,
    "order": exactly_once.main,
    "reconcile": reconcile.main,
    "imports": import_cost.main,
    "pipeline": pipeline.main,
}


def main() -> int:
    """Run what was asked for, in turn."""
    chosen = sys.argv[1:] or list(ALL)
    if unknown := [name for name in chosen if name not in ALL]:
        sys.exit(f"no benchmark is named {', '.join(unknown)}; known: {', '.join(ALL)}")
    for name in chosen:
        print(f"\n== {name}: {sys.modules[ALL[name].__module__].__doc__.splitlines()[0]}", flush=True)
        ALL[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
