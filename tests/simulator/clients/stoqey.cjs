// One session of @stoqey/ib with a simulator whose market is open; see docs/simulator-protocol.md.
//     node stoqey.cjs PORT
// Ends with status 0 if all of it came about. It cannot read completed orders below server version 177 (it leaves the
// field faProfile out), and says 505 for them.
const { IBApi, EventName: E } = require("@stoqey/ib");

const ib = new IBApi({ port: Number(process.argv[2]), clientId: 31 });
const heard = [];
for (const name of Object.values(E)) {
  if (["all", "sent", "received", "result"].includes(name)) continue;
  ib.on(name, (...args) => heard.push([name, ...args]));
}
const until = async (what, found, seconds = 15) => {
  for (const end = Date.now() + seconds * 1000; Date.now() < end; await new Promise((go) => setTimeout(go, 20))) {
    const got = heard.find(found);
    if (got) return console.log("ok", what), got;
  }
  console.error("missing:", what, heard.filter(([name]) => name === "error").map(([, e, c, i]) => [e.message, c, i]));
  process.exit(1);
};
const contract = (symbol) => ({ symbol, secType: "STK", exchange: "SMART", currency: "USD" });

(async () => {
  ib.connect();
  await until("connected at 176", ([n, v]) => n === "server" && v === 176);
  const [, id] = await until("next id", ([n]) => n === "nextValidId");
  ib.reqCurrentTime();
  await until("server time", ([n, t]) => n === "currentTime" && t > 1.7e9);
  ib.reqContractDetails(1, contract("AAPL"));
  await until("details", ([n, r, d]) => n === "contractDetails" && d.contract.conId === 265598 && d.minTick === 0.01);
  await until("details end", ([n, r]) => n === "contractDetailsEnd" && r === 1);
  ib.reqHistoricalData(2, contract("SPY"), "", "5 D", "1 day", "TRADES", 1, 1, false);
  await until("bars", ([n, r, date, open]) => n === "historicalData" && r === 2 && open > 0);
  await until("bars end", ([n, r, date]) => n === "historicalData" && r === 2 && String(date).startsWith("finished"));
  ib.reqMktData(3, contract("MSFT"), "", true, false);
  const [, , , bid] = await until("bid", ([n, r, type, price]) => n === "tickPrice" && type === 1 && price > 0);
  await until("snapshot end", ([n, r]) => n === "tickSnapshotEnd" && r === 3);
  const order = { action: "BUY", orderType: "MKT", totalQuantity: 10, tif: "DAY", orderRef: "stoqey", transmit: true };
  ib.placeOrder(id, contract("AAPL"), order);
  await until("filled", ([n, o, s, f]) => n === "orderStatus" && o === id && s === "Filled" && f === 10);
  await until("execution", ([n, r, c, x]) => n === "execDetails" && x.orderRef === "stoqey" && x.shares === 10);
  await until("commission", ([n, r]) => n === "commissionReport" && r.commission === 1 && r.currency === "USD");
  const low = { ...order, orderType: "LMT", lmtPrice: Math.round(bid * 90) / 100 };
  ib.placeOrder(id + 1, contract("MSFT"), low);
  await until("working", ([n, o, s]) => n === "orderStatus" && o === id + 1 && s === "Submitted");
  ib.placeOrder(id + 1, contract("MSFT"), { ...low, totalQuantity: 20 });
  await until("changed", ([n, o, c, r]) => n === "openOrder" && o === id + 1 && r.totalQuantity === 20);
  ib.reqAllOpenOrders();
  await until("open orders", ([n]) => n === "openOrderEnd");
  ib.cancelOrder(id + 1);
  await until("cancelled", ([n, o, s]) => n === "orderStatus" && o === id + 1 && s === "Cancelled");
  ib.placeOrder(id + 2, contract("MSFT"), { ...low, whatIf: true });
  await until("what-if", ([n, o, c, r, s]) => n === "openOrder" && o === id + 2 && s.initMarginChange > 0);
  ib.reqCompletedOrders(false);
  await until("completed end", ([n]) => n === "completedOrdersEnd");
  ib.reqExecutions(4, { clientId: 31 });
  await until("executions", ([n, r, c, x]) => n === "execDetails" && r === 4 && x.orderRef === "stoqey");
  ib.reqPositions();
  await until("position", ([n, a, c, q]) => n === "position" && c.symbol === "AAPL" && q >= 10);
  ib.reqAccountUpdates(true, "");
  await until("account", ([n, k, v]) => n === "updateAccountValue" && k === "NetLiquidation" && Number(v) > 0);
  await until("portfolio", ([n, c]) => n === "updatePortfolio" && c.symbol === "AAPL");
  ib.reqAccountSummary(5, "All", "NetLiquidation");
  await until("summary", ([n, r, a, tag]) => n === "accountSummary" && tag === "NetLiquidation");
  ib.reqPnL(6, "DU1234567", "");
  await until("pnl", ([n, r, d]) => n === "pnl" && r === 6);
  ib.reqContractDetails(7, contract("NOSUCH"));
  await until("error 200", ([n, e, code, r]) => n === "error" && code === 200 && r === 7);
  ib.disconnect();
  const expected = (code) => [200, 202, 505].includes(code) || (code >= 2100 && code < 2200);
  const faults = heard.filter(([name, , code]) => name === "error" && !expected(code));
  console.log("other errors:", faults.map(([, error, code, id]) => [error.message, code, id]));
  process.exit(faults.length ? 1 : 0);
})();
