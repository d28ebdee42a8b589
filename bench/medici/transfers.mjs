// Transfers through Medici, as its README recommends them where a balance must not fall below zero: entry, balance check and
// write lock in one transaction. Prints a Result (bench/result.py) as its last line.
// node transfers.mjs URI DATABASE CALLERS WALLETS SECONDS

import { Book, initModels, mongoTransaction } from "medici";
import mongoose from "mongoose";

const [uri, database, ...numbers] = process.argv.slice(2);
const [callers, wallets, seconds] = numbers.map(Number);
const OPENING_BALANCE = 1e9;
const WARMUP_MS = 1000;
const SAFE = { readConcern: { level: "snapshot" }, writeConcern: { w: "majority", j: true } };

const book = new Book("bench");
const account = (number) => `Accounts:wallet-${String(number).padStart(5, "0")}`;

async function fund() {
  for (let number = 0; number < wallets; number += 1) {
    await book.entry("opening").debit("Assets", OPENING_BALANCE).credit(account(number), OPENING_BALANCE).commit();
    await book.balance({ account: account(number) }); // makes the snapshot that later checks start from
  }
}

async function transfer(source, destination) {
  await mongoTransaction(async (session) => {
    await book.entry("transfer").debit(source, 1).credit(destination, 1).commit({ session });
    const { balance } = await book.balance({ account: source }, { session });
    if (balance < 0) throw new Error("insufficient funds");
    await book.writelockAccounts([source], { session });
  }, SAFE);
}

function pair() {
  const source = Math.floor(Math.random() * wallets);
  const step = 1 + Math.floor(Math.random() * (wallets - 1));
  return [account(source), account((source + step) % wallets)];
}

async function caller(begin, end, tally) {
  for (let started = performance.now(); started < end; ) {
    try {
      await transfer(...pair());
    } catch (error) {
      tally.errors[error.name] = (tally.errors[error.name] ?? 0) + 1;
      tally.extra.sample = String(error.message).slice(0, 300);
      return;
    }
    const finished = performance.now();
    if (finished >= begin && finished <= end) tally.latencies.push(finished - started);
    started = finished;
  }
}

function result({ latencies, errors, extra }) {
  latencies.sort((one, other) => one - other);
  const at = (share) => latencies[Math.min(latencies.length - 1, Math.floor(share * latencies.length))] ?? 0;
  return { count: latencies.length, seconds, p50_ms: at(0.5), p95_ms: at(0.95), p99_ms: at(0.99), errors, extra };
}

await mongoose.connect(uri, { dbName: database, maxPoolSize: callers + 8 });
try {
  await mongoose.connection.dropDatabase();
  await initModels();
  await fund();
  const begin = performance.now() + WARMUP_MS;
  const tally = { latencies: [], errors: {}, extra: {} };
  await Promise.all(Array.from({ length: callers }, () => caller(begin, begin + seconds * 1000, tally)));
  const { balance } = await book.balance({ account: "Accounts" });
  if (balance !== wallets * OPENING_BALANCE) throw new Error("the balances do not sum to what was issued");
  await mongoose.connection.dropDatabase();
  console.log(JSON.stringify(result(tally)));
} finally {
  await mongoose.disconnect();
}
