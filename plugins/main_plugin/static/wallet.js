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
  #balance = null;
  #rows = [];
  #reading = null;
  #missed = false;
  #doubtful = false;
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

  /** wallet_updated: {wallet_id, settled, held, available, seq} */
  updated(push) {
    if (push.wallet_id !== this.#id || push.seq < this.#seq) return;
    // A hold changes no seq, so which of two pushes of one seq is newer cannot be told: show it, and look.
    this.#doubtful ||= push.seq === this.#seq;
    this.#seq = push.seq;
    this.#balance = { settled: push.settled, held: push.held, available: push.available };
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
        this.#missed = this.#doubtful = false;
        // The rows first: then the balance is as new or newer, and what comes between is pushed, or seen as a gap.
        const { data } = await this.#session.call("GET", `/wallets/me/transactions?limit=${ROWS}`);
        const wallet = await this.#session.call("GET", "/wallets/me");
        this.#id = wallet.id;
        this.#rows = data;
        this.#seq = this.#newest;
        this.#balance = { settled: wallet.settled, held: wallet.held, available: wallet.available };
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
      if (this.#doubtful || this.#seq !== this.#newest) this.sync();
    }, GAP_MS);
  }
}

function asRow(transaction, entry) {
  const { id, type, source, destination, memo, created_at } = transaction;
  const counterparty = entry.wallet_id === source ? destination : source;
  return { transaction_id: id, type, delta: entry.delta, seq: entry.seq, counterparty, memo, created_at };
}
