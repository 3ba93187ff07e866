"""`airflow ibkr reconcile` and `airflow ibkr import-flex`.

Exit status of `reconcile`: 0 all agrees; 1 refused, or the trading database failed; 3 some account could not be
reconciled; 4 books disagree. 4 goes before 3. Of `import-flex`: 0, or 1 with the fault; then nothing was stored.
"""

from __future__ import annotations

import argparse
import getpass
import json
import socket
import sys
from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.errors import BooksDisagree, ClientIdInUse, ConfigError, IBKRPluginError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow_ibkr_plugin.execution.reconcile import Reconciled
    from airflow_ibkr_plugin.store.database import Database
    from airflow_ibkr_plugin.trading.splits import Ratio

NOT_MADE, DISAGREE = 3, 4


def reconcile(args: argparse.Namespace) -> None:
    """Compare the books of each account with the broker's, and store what is found."""
    try:
        _check(args)
        status = _replay(args) if args.replay else _reconcile(args)
    except IBKRPluginError as error:
        sys.exit(str(error))
    if status:
        sys.exit(status)


def _check(args: argparse.Namespace) -> None:
    accepts = args.accept is not None
    if args.replay and (accepts or args.split or args.connection):
        raise ConfigError("--replay asks no broker.", remedy="Leave --accept, --split and --connection out.")
    if accepts and args.split:
        raise ConfigError("A split changes what differs.", remedy="State it first, and accept what differs then.")
    if (accepts or args.split) and not args.reason.strip():
        raise ConfigError("What a person takes as right is kept with the reason.", remedy="Say why: --reason TEXT.")
    if accepts and args.strategy:
        raise ConfigError("An account's differences are accepted as a whole.", remedy="Leave --strategy out.")


def _reconcile(args: argparse.Namespace) -> int:
    from airflow_ibkr_plugin.store.database import open_database

    database = open_database()
    splits = _splits(args.split)
    made: list[Reconciled] = []
    failed: dict[str, str] = {}
    for conn_id in _connections(database, args):
        try:
            made.append(_one(database, conn_id, args, splits))
        except (StoreError, BooksDisagree):
            raise
        except IBKRPluginError as error:
            failed[conn_id] = str(error)
    shown = [one.concerning(args.strategy) for one in made] if args.strategy else made
    print(_json(shown, failed) if args.format == "json" else "\n".join(_lines(shown, failed)), flush=True)
    if any(one.open for one in shown):
        return DISAGREE
    return NOT_MADE if failed else 0


def _one(database: Database, conn_id: str, args: argparse.Namespace, splits: Mapping[str, Ratio]) -> Reconciled:
    import uuid

    from airflow_ibkr_plugin.broker.connect import leased_session
    from airflow_ibkr_plugin.cli.connections import gateway_of
    from airflow_ibkr_plugin.execution.reconcile import reconcile as engine
    from airflow_ibkr_plugin.execution.reconcile import record_failure
    from airflow_ibkr_plugin.store.reconciliations import places

    by = f"{getpass.getuser()}@{socket.gethostname()}"
    try:
        session_of = leased_session(gateway_of(conn_id), database, owner=f"reconcile/{by}/{uuid.uuid4().hex[:8]}")
        with session_of as session:
            return engine(session, database, by=by, accept=args.accept, splits=splits, reason=args.reason)
    except (StoreError, ClientIdInUse, BooksDisagree):
        raise
    except IBKRPluginError as error:
        with database.read() as transaction:
            known = places(transaction, conn_id)
        for source, account in known:
            record_failure(database, source, account, by=by, error=error)
        raise


def _connections(database: Database, args: argparse.Namespace) -> list[str]:
    from airflow_ibkr_plugin.store.models.reconciliations import ReconciliationRow
    from airflow_ibkr_plugin.store.reconciliations import places

    if args.connection:
        return [args.connection]
    with database.read() as session:
        if args.accept is not None:
            seen = session.get(ReconciliationRow, args.accept)
            if seen is None:
                raise ConfigError(
                    f"There is no reconciliation {args.accept}.",
                    remedy="Name the one that was seen: `airflow ibkr reconcile` and its alert tell its number.",
                )
            return [seen.source.partition(":")[2]]
        found = sorted({source.partition(":")[2] for source, _ in places(session)})
    if not found:
        raise ConfigError(
            "No strategy has traded yet, so there is nothing to reconcile by itself.",
            remedy="Name the connection: --connection ibkr_default.",
        )
    return found


def _splits(text: str) -> dict[str, Ratio]:
    from airflow_ibkr_plugin.trading.splits import parse_ratio

    if not text:
        return {}
    symbol, _, given = text.partition("=")
    ratio = parse_ratio(given)
    if not symbol or ratio is None:
        raise ConfigError(f"--split is {text!r}.", remedy="Write new for old shares, such as AAPL=4:1, or GE=1:8.")
    return {symbol: ratio}


def _lines(made: Iterable[Reconciled], failed: Mapping[str, str]) -> Iterable[str]:
    from airflow_ibkr_plugin.execution.reconcile import accept_command

    for one in made:
        yield f"{one.account} at {one.source}: {one.result.upper()} (reconciliation {one.id})"
        if one.booked:
            yield f"  booked: {one.booked} fills that our books lacked"
        yield from (f"  split: {split}" for split in one.splits)
        yield from (
            f"  {'accepted' if difference.accepted else 'differs'}: {difference}"
            + (f" [{', '.join(difference.strategies)}]" if difference.strategies else "")
            for difference in one.differences
        )
        yield from (f"  beside the books: {quantity:f} {symbol}" for symbol, quantity in sorted(one.beside.items()))
        if one.open:
            yield f"  if all that differs in the account is right as the broker has it: {accept_command(one.id)}"
    yield from (f"{conn_id}: COULD NOT BE MADE: {why}" for conn_id, why in failed.items())


def _json(made: Iterable[Reconciled], failed: Mapping[str, str]) -> str:
    return json.dumps({"reconciliations": [one.to_dict() for one in made], "failed": dict(failed)}, indent=2)


def _replay(args: argparse.Namespace) -> int:
    from airflow_ibkr_plugin.store.database import open_database
    from airflow_ibkr_plugin.store.replay import replay

    with open_database().read() as session:
        found = replay(session, args.strategy)
    if args.format == "json":
        figures: dict[str, Any] = {
            "positions": found.positions,
            "fills": found.fills,
            "mismatches": [str(one) for one in found.mismatches],
            "commissions": {currency: f"{amount:f}" for currency, amount in found.commissions.items()},
            "realized": {currency: f"{amount:f}" for currency, amount in found.realized.items()},
        }
        print(json.dumps(figures, indent=2))
    else:
        print(f"{found.positions} positions from {found.fills} fills")
        for currency, amount in sorted(found.commissions.items()):
            print(f"  commissions: {amount:f} {currency}")
        for currency, amount in sorted(found.realized.items()):
            print(f"  realised profit: {amount:f} {currency}")
        for one in found.mismatches:
            print(f"  differs: {one}")
    return DISAGREE if found.mismatches else 0


def import_flex(args: argparse.Namespace) -> None:
    """Book from a Flex statement what our books lack."""
    from pathlib import Path

    from airflow_ibkr_plugin.broker.flex import read_statement
    from airflow_ibkr_plugin.execution.flex import import_statement
    from airflow_ibkr_plugin.store.database import open_database

    try:
        statement = read_statement(Path(args.file), time_zone=args.time_zone)
        found = import_statement(open_database(), statement, conn_id=args.connection, dry_run=args.dry_run)
    except IBKRPluginError as error:
        sys.exit(str(error))
    for line in found.lines():
        print(line)
    if args.dry_run:
        print("Nothing was stored (--dry-run).")
