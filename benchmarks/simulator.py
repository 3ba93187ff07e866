"""The simulated gateway: orders a second, order to fill, memory, connect time, with and without past orders.

Clients are ib_insync with its throttle off, all in one process; the gateway is a process of its own, its meter off.
Aims: 500 orders a second, 100 MB at rest, order latency that does not grow with past orders.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import ib_insync

from benchmarks.gateway import Running, gateway
from benchmarks.raw_client import RawClient

CLIENTS = (1, 8, 32)
#: Orders of one throughput figure, and of one latency figure, over all clients.
BURST, SINGLE = 2000, 320
#: Orders behind a gateway: for memory and latency, and for connecting.
PAST = 100_000
COMPLETED = (0, 1000, 5000)
NO_METER = ("--message-rate", "0")

_client_ids = itertools.count(100)


def main() -> None:
    """Print the tables."""
    with gateway(*NO_METER) as running:
        at_rest = running.megabytes()
        print(f"at rest: {at_rest:.0f} MB, aim below 100\n\nwithout --state")
        by_clients(running)
        past_orders(running, at_rest)
    with tempfile.TemporaryDirectory() as folder, gateway(*NO_METER, "--state", str(Path(folder, "s.db"))) as running:
        print("\nwith --state (on disk before it is acknowledged)")
        by_clients(running)
    print()
    connecting()


def by_clients(running: Running) -> None:
    """Orders a second, all sent at once; then each client one order after another."""
    print(f"{'clients':>8} {'orders/s':>10} {'order to fill ms':>17} {'its 99 % ms':>12} {'against 1':>10}")
    first = 0.0
    for number in CLIENTS:
        rate = asyncio.run(throughput(running.port, number))
        seconds = asyncio.run(latencies(running.port, number))
        typical, worst = statistics.median(seconds) * 1000, statistics.quantiles(seconds, n=100)[98] * 1000
        first = first or typical
        print(f"{number:8} {rate:10.0f} {typical:17.1f} {worst:12.1f} {typical / first:9.1f}x")


def past_orders(running: Running, at_rest: float) -> None:
    """Memory and latency with 100,000 orders of the day behind the gateway, against a fresh one."""
    client = RawClient(running.port, next(_client_ids))
    seconds = client.fill(PAST)
    client.close()
    now = running.megabytes()
    print(f"\n{PAST} more orders from a raw socket: {PAST / seconds:.0f} orders/s")
    print(f"memory: {now:.0f} MB, {(now - at_rest) * 1024 / PAST:.2f} KB an order")
    with gateway(*NO_METER) as fresh:
        behind, before = RawClient(running.port, next(_client_ids)), RawClient(fresh.port, next(_client_ids))
        # Turn by turn, so that both meet the same machine.
        pairs = [(behind.fill(1), before.fill(1)) for _ in range(SINGLE)]
    after, yardstick = (statistics.median(column) * 1000 for column in zip(*pairs, strict=True))
    print(
        f"order to fill, raw socket: {after:.2f} ms against {yardstick:.2f} ms on a fresh one, {after / yardstick:.2f}x"
    )


def connecting() -> None:
    """What ib_insync takes to connect: it asks for the day's completed orders and executions."""
    print(f"{'completed orders':>17} {'ib_insync connects in ms':>25} {'raw socket ms':>14}")
    with gateway(*NO_METER) as running:
        filled = 0
        for completed in COMPLETED:
            filler = RawClient(running.port, next(_client_ids))
            filler.fill(completed - filled)
            filler.close()
            filled = completed
            started = time.perf_counter()
            asyncio.run(connect_once(running.port))
            took = time.perf_counter() - started
            started = time.perf_counter()
            RawClient(running.port, next(_client_ids)).close()
            print(f"{completed:17} {took * 1000:25.0f} {(time.perf_counter() - started) * 1000:14.1f}")


@asynccontextmanager
async def client(port: int) -> AsyncIterator[tuple[ib_insync.IB, ib_insync.Contract]]:
    """A connected ib_insync client without throttle, that asks for nothing of the past; and SPY."""
    ib = ib_insync.IB()
    ib.client.MaxRequests = 0
    await ib.client.connectAsync("127.0.0.1", port, next(_client_ids))
    try:
        (contract,) = await ib.qualifyContractsAsync(ib_insync.Stock("SPY", "SMART", "USD"))
        yield ib, contract
    finally:
        ib.disconnect()


async def throughput(port: int, clients: int) -> float:
    """Orders a second from placing the first until the last commission."""

    async def burst(ib: ib_insync.IB, contract: ib_insync.Contract, count: int) -> None:
        left, done = count, asyncio.get_running_loop().create_future()

        def commissioned(*_: object) -> None:
            nonlocal left
            left -= 1
            if not left:
                done.set_result(None)

        ib.commissionReportEvent += commissioned
        for side, _ in zip(itertools.cycle(("BUY", "SELL")), range(count), strict=False):
            ib.placeOrder(contract, ib_insync.MarketOrder(side, 1, tif="DAY"))
        await done

    async with _clients(port, clients) as connected:
        started = time.perf_counter()
        await asyncio.gather(*(burst(ib, contract, BURST // clients) for ib, contract in connected))
        return BURST // clients * clients / (time.perf_counter() - started)


async def latencies(port: int, clients: int) -> list[float]:
    """Seconds from placing to the commission report, each client one order after another."""

    async def one_by_one(ib: ib_insync.IB, contract: ib_insync.Contract, count: int) -> list[float]:
        taken = []
        for side, _ in zip(itertools.cycle(("BUY", "SELL")), range(count), strict=False):
            started = time.perf_counter()
            ib.placeOrder(contract, ib_insync.MarketOrder(side, 1, tif="DAY"))
            await ib.commissionReportEvent
            taken.append(time.perf_counter() - started)
        return taken

    async with _clients(port, clients) as connected:
        found = await asyncio.gather(*(one_by_one(ib, contract, SINGLE // clients) for ib, contract in connected))
    return [seconds for taken in found for seconds in taken]


@asynccontextmanager
async def _clients(port: int, number: int) -> AsyncIterator[list[tuple[ib_insync.IB, ib_insync.Contract]]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(client(port)) for _ in range(number)]


async def connect_once(port: int) -> None:
    """The whole of ib_insync's connect."""
    ib = ib_insync.IB()
    await ib.connectAsync("127.0.0.1", port, clientId=next(_client_ids), timeout=120)
    ib.disconnect()
