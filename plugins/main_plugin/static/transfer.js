// Sending credits so that they are sent once: a transfer keeps its Idempotency-Key until its outcome is known, also over a reload.

const STORED = "transfer";
const TRIES = 4;
const PAUSE_MS = 700;

/** At most one transfer at a time; `pending` is the one whose outcome is not known: {user, key, body}, or null. */
export class Transfer {
  #session;
  pending = null;

  constructor(session) {
    this.#session = session;
    const stored = JSON.parse(sessionStorage.getItem(STORED) ?? "null");
    if (stored?.user === session.user.id) this.pending = stored;
  }

  /** Send `body`, or what is pending. Throws Problem; where that `isUnknown`, the transfer stays pending. */
  async send(body) {
    this.#keep(this.pending ?? { user: this.#session.user.id, key: newKey(), body });
    try {
      const transaction = await this.#deliver();
      this.forget();
      return transaction;
    } catch (problem) {
      if (!problem.isUnknown) this.forget();
      throw problem;
    }
  }

  forget() {
    this.pending = null;
    sessionStorage.removeItem(STORED);
  }

  async #deliver() {
    const { key, body } = this.pending;
    for (let tries = 1; ; tries++) {
      try {
        return await this.#session.call("POST", "/transfers", { key, body });
      } catch (problem) {
        if (!problem.isUnknown || tries === TRIES) throw problem;
        await new Promise((done) => setTimeout(done, Math.max(problem.retryAfter * 1000, PAUSE_MS * 2 ** (tries - 1))));
      }
    }
  }

  #keep(pending) {
    this.pending = pending;
    sessionStorage.setItem(STORED, JSON.stringify(pending));
  }
}

/** 128 random bits; `crypto.randomUUID` is not there on a page without TLS. */
function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
