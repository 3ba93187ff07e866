"""What `airflow ibkr ...` does. Each function takes the parsed arguments and exits by SystemExit on a fault."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from airflow_ibkr_plugin.errors import IBKRPluginError


def db_migrate(args: argparse.Namespace) -> None:
    """Bring the trading database up to this version."""
    from airflow_ibkr_plugin import settings
    from airflow_ibkr_plugin.store.migrate import migrate

    try:
        migrate(settings.load().sql_alchemy_conn)
    except IBKRPluginError as error:
        sys.exit(str(error))
    print("The trading database is up to date.")


def setup(args: argparse.Namespace) -> None:
    """Migrate the trading database; make the pool of each `ibkr` connection, sized by its client ids."""
    from airflow.models import Connection, Pool
    from airflow.utils.session import create_session
    from sqlalchemy import select

    from airflow_ibkr_plugin.hooks.ibkr import DEFAULT_CLIENT_IDS, parse_client_ids
    from airflow_ibkr_plugin.workflows.builder import pool_name

    db_migrate(args)
    with create_session() as session:
        connections = session.scalars(select(Connection).where(Connection.conn_type == "ibkr")).all()
        for connection in connections:
            ids = parse_client_ids(str(connection.extra_dejson.get("client_ids") or DEFAULT_CLIENT_IDS))
            pool = Pool.create_or_update_pool(
                pool_name(str(connection.conn_id)),
                slots=len(ids),
                description=f"Sessions at the gateway of {connection.conn_id}: one for each client id.",
                include_deferred=False,
                session=session,
            )
            print(f"Pool {pool.pool}: {pool.slots} slots")
    if not connections:
        print("No connection of type ibkr yet: make one, then run this again for its pool.")


def packages(args: argparse.Namespace) -> None:
    """List the strategy packages."""
    from airflow_ibkr_plugin.registry import get_registry

    registry = get_registry()
    for package in registry.packages:
        offered = sorted(
            f"{kind[:-1]} {name}" for (kind, name), owner in registry.owners.items() if owner == package.name
        )
        print(f"{package.name} ({package.distribution} {package.version}): {package.error or ', '.join(offered)}")


def validate(args: argparse.Namespace) -> None:
    """Check workflow files."""
    from airflow_ibkr_plugin.registry import get_registry
    from airflow_ibkr_plugin.workflows.checks import Checker
    from airflow_ibkr_plugin.workflows.loader import load_file, refuse_clashes, workflow_files

    checker = Checker(get_registry())
    files = [file for path in map(Path, args.paths) for file in (workflow_files(path) if path.is_dir() else [path])]
    loaded = refuse_clashes(item for file in dict.fromkeys(files) for item in load_file(file, checker))
    faults = [error.message for item in loaded if (error := item.error)]
    if faults:
        sys.exit("\n".join(faults))
    print(f"{len(loaded)} strategies: no fault found.")


def service(args: argparse.Namespace) -> None:
    """Run the service until SIGTERM or Ctrl-C."""
    from airflow_ibkr_plugin.cli.connections import gateway_of
    from airflow_ibkr_plugin.service.main import main

    try:
        sys.exit(main(gateway_of))
    except IBKRPluginError as error:
        print(f"The service cannot run: {error}", file=sys.stderr)
        sys.exit(2)


def simulator(args: argparse.Namespace) -> None:
    """Run a simulated IB Gateway in the foreground."""
    from airflow_ibkr_plugin.simulator.commandline import run_parsed

    sys.exit(run_parsed(args))
