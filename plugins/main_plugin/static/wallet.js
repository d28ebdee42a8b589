// The wallet as it is shown: read over REST, kept current by pushes.
//
// A push can get lost. Each transaction of a wallet has the next `seq`: what is shown is whole when the newest row's seq is that of the
// balance. Where it is not, and soon does not come to be, everything is read again.

const ROWS = 10;
const GAP_MS = 400;

/** `show(balance, rows)` is called at each change; `balance`: {settled, held, available}, rows as in the wallet's history. */
export class Wallet {
  #session;
  #show;
  #fail;
  #id = null;
  #seq = 0;
  #version = 0;
  #balance = null;
  #rows = [];
  #reading = null;
  #missed = false;
  #timer = 0;

  constructor(session, show, fail) {
    this.#session = session;
    this.#show = show;
    this.#fail = fail;
  }

  /** Read everything; asked again meanwhile, once more. */
  sync() {
    if (this.#reading) this.#missed = true;
    this.#reading ??= this.#read().finally(() => (this.#reading = null));
    return this.#reading;
  }

  /** wallet_updated: {wallet_id, settled, held, available, seq, version} */
  updated(push) {
    // A hold changes no seq, so it is the version that says which of two pushes is newer.
    if (push.wallet_id !== this.#id || push.version < this.#version) return;
    this.#adopt(push, push.seq);
    this.#changed();
  }

  /** transaction_posted: a transaction, with one entry for each wallet. */
  posted(transaction) {
    const entry = transaction.entries.find((each) => each.wallet_id === this.#id);
    // What comes out of order, the check finds missing.
    if (entry?.seq === this.#newest + 1) this.#rows = [asRow(transaction, entry), ...this.#rows].slice(0, ROWS);
    this.#changed();
  }

  stop() {
    clearTimeout(this.#timer);
    this.#show = this.#fail = () => {};
  }

  async #read() {
    try {
      do {
        this.#missed = false;
        // The rows first: then the balance is as new or newer, and what comes between is pushed, or seen as a gap.
        const { data } = await this.#session.call("GET", `/wallets/me/transactions?limit=${ROWS}`);
        const wallet = await this.#session.call("GET", "/wallets/me");
        this.#id = wallet.id;
        this.#rows = data;
        this.#adopt(wallet, this.#newest);
      } while (this.#missed);
      this.#show(this.#balance, this.#rows);
      this.#fail(null);
    } catch (problem) {
      this.#fail(problem);
    }
  }

  get #newest() {
    return this.#rows[0]?.seq ?? 0;
  }

  #changed() {
    if (this.#reading) this.#missed = true;
    if (this.#balance) this.#show(this.#balance, this.#rows);
    this.#timer ||= setTimeout(() => {
      this.#timer = 0;
      if (this.#seq !== this.#newest) this.sync();
    }, GAP_MS);
  }

  #adopt({ settled, held, available, version }, seq) {
    this.#balance = { settled, held, available };
    this.#version = version;
    this.#seq = seq;
  }
}

function asRow(transaction, entry) {
  const { id, type, source, destination, memo, created_at } = transaction;
  const counterparty = entry.wallet_id === source ? destination : source;
  return { transaction_id: id, type, delta: entry.delta, seq: entry.seq, counterparty, memo, created_at };
}
