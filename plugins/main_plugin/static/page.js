// The page: which part of it is shown, and what its buttons do.

import { byId, forgive, make, onSubmit, say } from "./dom.js";
import { connect } from "./live.js";
import { clearRoom, Room, wireRoom } from "./room.js";
import { Session } from "./session.js";
import { Transfer } from "./transfer.js";
import { Wallet } from "./wallet.js";

const TYPES = { grant: "Granted", debit: "Spent", transfer: "Transfer", capture: "Paid", reversal: "Taken back", expiry: "Expired" };
const LIVE = { live: "Live", connecting: "Connecting" };

const number = new Intl.NumberFormat();
const signed = new Intl.NumberFormat(undefined, { signDisplay: "exceptZero" });
const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

const session = new Session();
// What lives as long as someone is signed in: {socket, wallet, room, transfer}.
let parts = null;
let shown = null;

// Signing in and out

function enter() {
  const wallet = new Wallet(session, showWallet, (problem) => say(byId("wallet-error"), problem?.message));
  const socket = connect(session, showLive);
  const room = new Room(socket, session.user);
  parts = { socket, wallet, room, transfer: new Transfer(session) };
  socket.on("wallet_updated", (push) => wallet.updated(push));
  socket.on("transaction_posted", (transaction) => wallet.posted(transaction));
  socket.on("connect", () => {
    // What was pushed in between is lost.
    wallet.sync();
    room.rejoin().catch((problem) => say(byId("notice"), problem.message));
  });
  wallet.sync();
  byId("who").textContent = session.user.username;
  say(byId("notice"), null);
  showPart(true);
  showPending();
  byId("main").focus();
}

function leave(reason) {
  parts?.wallet.stop();
  parts?.socket.leaveForGood();
  parts = shown = null;
  for (const form of document.forms) {
    form.reset();
    forgive(form);
  }
  clearRoom();
  byId("recent").replaceChildren();
  for (const id of ["available", "settled", "held"]) byId(id).textContent = "–";
  for (const id of ["sent", "wallet-error"]) say(byId(id), null);
  byId("news").textContent = "";
  say(byId("notice"), reason);
  showPart(false);
  byId("login").focus();
}

function showPart(isSignedIn) {
  byId("signed-in").hidden = byId("account").hidden = !isSignedIn;
  byId("signed-out").hidden = isSignedIn;
  showForm("sign-in");
}

function showForm(name) {
  for (const each of ["sign-in", "register"]) byId(each).hidden = each !== name;
}

function showLive(state) {
  byId("live").textContent = LIVE[state];
  byId("live").dataset.state = state;
}

// The wallet

function showWallet(balance, rows) {
  for (const [name, value] of Object.entries(balance)) {
    const element = byId(name);
    const text = number.format(value);
    if (element.textContent === text) continue;
    element.textContent = text;
    element.classList.toggle("long", text.length > 12);
    if (shown) flash(element);
  }
  if (shown && shown.available !== balance.available) byId("news").textContent = `${number.format(balance.available)} credits available`;
  shown = balance;
  byId("recent").replaceChildren(...rows.map(row));
  byId("no-recent").hidden = rows.length > 0;
}

function row({ type, delta, memo, created_at }) {
  const what = make("span", "what", type === "transfer" ? (delta > 0 ? "Received" : "Sent") : (TYPES[type] ?? type));
  const time = make("time", "", moment.format(new Date(created_at)));
  time.dateTime = created_at;
  const amount = make("span", delta > 0 ? "amount in" : "amount", signed.format(delta));
  return make("li", "", what, amount, make("span", "memo", memo ?? ""), time);
}

function flash(element) {
  element.classList.remove("changed");
  // Read, so that the animation starts anew.
  void element.offsetWidth;
  element.classList.add("changed");
}

// Sending credits

async function send({ destination, amount, memo }) {
  say(byId("sent"), null);
  const { transfer, wallet } = parts;
  const body = transfer.pending?.body ?? {
    destination: { username: destination.trim() },
    // What is no number stays text, and the server says what it should be.
    amount: /^\d+$/.test(amount.trim()) ? Number(amount) : amount,
    ...(memo && { memo }),
  };
  try {
    // The push says the same, where it arrives.
    wallet.posted(await transfer.send(body));
    say(byId("sent"), `Sent ${number.format(body.amount)} to ${body.destination.username}.`);
    byId("send-form").reset();
  } catch (problem) {
    if (problem.isUnknown) problem.message += " Whether the credits were sent is not known yet. Trying again cannot send them twice.";
    if (problem.available !== undefined) problem.message += ` ${number.format(problem.available)} available.`;
    throw problem;
  } finally {
    showPending();
  }
}

/** While a transfer's outcome is not known its fields are locked: trying again means the same one. */
function showPending() {
  const pending = parts?.transfer.pending;
  const fields = { receiver: pending?.body.destination.username, amount: pending?.body.amount, memo: pending?.body.memo };
  for (const [id, value] of Object.entries(fields)) {
    byId(id).readOnly = Boolean(pending);
    if (pending) byId(id).value = value ?? "";
  }
  byId("send").textContent = pending ? "Try again" : "Send";
  byId("forget").hidden = !pending;
}

// Start

onSubmit(byId("sign-in-form"), async ({ login, password }) => {
  await session.signIn(login.trim(), password);
  enter();
});
onSubmit(byId("register-form"), async ({ username, email, password }) => {
  await session.register({ username: username.trim(), email: email.trim(), password });
  enter();
});
onSubmit(byId("send-form"), send);
wireRoom(() => parts.room);
byId("sign-out").addEventListener("click", () => session.signOut());
byId("forget").addEventListener("click", () => {
  parts.transfer.forget();
  forgive(byId("send-form"));
  byId("send-form").reset();
  showPending();
  parts.wallet.sync();
});
for (const [button, form, field] of [["to-register", "register", "new-username"], ["to-sign-in", "sign-in", "login"]]) {
  byId(button).addEventListener("click", () => {
    showForm(form);
    byId(field).focus();
  });
}
session.addEventListener("ended", (event) => leave(event.detail));

try {
  if (await session.resume()) enter();
  else leave(null);
} catch (problem) {
  leave(problem.message);
}
