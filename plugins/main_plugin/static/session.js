// The session: who is signed in, and the tokens.
//
// Both tokens live in memory only. A reload would lose them, so the refresh token is laid into sessionStorage when the page is left
// and taken out of it when the page is back: there it is neither while the page runs, nor in another tab or after the tab is closed.
// (A duplicated tab, which gets a copy of sessionStorage, finds none: a refresh token works once, and its second use would end the
// session as stolen.) Over TLS both tokens are worth nothing without an HttpOnly cookie that no script can read.

import { call, Problem } from "./api.js";

const STORED = "refresh-token";
// Of the access token's life, after which a new one is fetched.
const RENEW_AFTER = 0.75;
const AGAIN_MS = 5_000;

/** Events: `renewed`; `ended`, whose `detail` is why, or null where the user wanted it. */
export class Session extends EventTarget {
  #access = null;
  #refresh = null;
  #renewAt = 0;
  #expiresAt = 0;
  #renewing = null;
  #timer = 0;
  #leaving = false;

  user = null;

  constructor() {
    super();
    addEventListener("pagehide", () => this.#store());
    addEventListener("pageshow", (event) => event.persisted && sessionStorage.removeItem(STORED));
  }

  /** Go on after a reload; whether someone is signed in. Throws Problem where the server cannot tell. */
  async resume() {
    this.#refresh = sessionStorage.getItem(STORED);
    sessionStorage.removeItem(STORED);
    if (!this.#refresh) return false;
    try {
      await this.renew();
      return true;
    } catch (problem) {
      if (problem.status === 401) return false;
      throw problem;
    }
  }

  async register(fields) {
    this.#adopt(await call("POST", "/auth/register", { body: fields }));
  }

  async signIn(login, password) {
    this.#adopt(await call("POST", "/auth/login", { body: { login, password } }));
  }

  async signOut() {
    this.#leaving = true;
    try {
      await call("POST", "/auth/logout", { token: await this.token() });
    } catch {
      // The session is over here, whatever the server says.
    }
    this.end(null);
  }

  /** Forget everything; `reason` is for the user. */
  end(reason) {
    if (!this.#refresh) return;
    clearTimeout(this.#timer);
    this.#access = this.#refresh = this.user = null;
    this.dispatchEvent(new CustomEvent("ended", { detail: this.#leaving ? null : reason }));
    this.#leaving = false;
  }

  /** An access token that will do for the next seconds. */
  async token() {
    if (Date.now() >= this.#renewAt) {
      try {
        await this.renew();
      } catch (problem) {
        // Fetched early, so that there is still time where the server does not answer.
        if (problem.status === 401 || Date.now() >= this.#expiresAt) throw problem;
      }
    }
    return this.#access;
  }

  /** Trade the refresh token for a new pair; whoever comes meanwhile waits for the same one. */
  renew() {
    this.#renewing ??= this.#trade().finally(() => (this.#renewing = null));
    return this.#renewing;
  }

  /** A request as the user. */
  async call(method, path, options = {}) {
    try {
      return await call(method, path, { ...options, token: await this.token() });
    } catch (problem) {
      if (problem.status === 401) this.end("Your session has ended. Please sign in again.");
      throw problem;
    }
  }

  async #trade() {
    const spent = this.#refresh;
    if (!spent) throw new Problem({ status: 401, code: "signed-out", detail: "You are signed out." });
    try {
      const answer = await call("POST", "/auth/refresh", { body: { refresh_token: spent } });
      // Signed out meanwhile: what was fetched is not ours to keep.
      if (this.#refresh !== spent) throw new Problem({ status: 401, code: "signed-out", detail: "You are signed out." });
      this.#adopt(answer);
      this.dispatchEvent(new Event("renewed"));
    } catch (problem) {
      if (problem.status === 401) this.end("Your session has ended. Please sign in again.");
      else this.#plan(AGAIN_MS);
      throw problem;
    }
  }

  #adopt(answer) {
    this.#access = answer.access_token;
    this.#refresh = answer.refresh_token;
    this.user = answer.user;
    const life = answer.expires_in * 1000;
    this.#renewAt = Date.now() + life * RENEW_AFTER;
    this.#expiresAt = Date.now() + life;
    this.#plan(life * RENEW_AFTER);
  }

  #plan(delay) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.renew().catch(() => {}), delay);
  }

  #store() {
    // One that is being traded may be spent already.
    if (this.#refresh && !this.#renewing) sessionStorage.setItem(STORED, this.#refresh);
  }
}
