// HTTP: requests to our own server, and their refusals as exceptions.

const TIMEOUT_MS = 10_000;

/** A refusal (RFC 9457), or status 0 where no answer came. `errors`: [{field, message}]; `retryAfter`: seconds; `available`: credits. */
export class Problem extends Error {
  constructor(document, retryAfter = 0) {
    super(document.detail || document.title || "Something went wrong.");
    this.status = document.status;
    this.code = document.code;
    this.errors = document.errors ?? [];
    this.available = document.available;
    this.retryAfter = retryAfter;
  }

  /** Whether the request may have had an effect all the same. */
  get isUnknown() {
    return this.status === 0 || this.status >= 500 || this.code === "idempotency-in-progress";
  }
}

/** What the server answers: parsed JSON, or null where there is no body. Throws Problem. */
export async function call(method, path, { body, token, key } = {}) {
  const headers = { Accept: "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  if (key) headers["Idempotency-Key"] = key;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const options = { method, headers, cache: "no-store", body: body && JSON.stringify(body), signal: AbortSignal.timeout(TIMEOUT_MS) };
  let response, text;
  try {
    response = await fetch(path, options);
    text = await response.text();
  } catch {
    throw new Problem({ status: 0, code: "unreachable", detail: "The server cannot be reached just now." });
  }
  if (response.ok) return text ? JSON.parse(text) : null;
  throw new Problem(readProblem(response, text), Number(response.headers.get("Retry-After")) || 0);
}

function readProblem(response, text) {
  try {
    return { ...JSON.parse(text), status: response.status };
  } catch {
    // Not ours, but of something on the way.
    return { status: response.status, code: "unreadable", title: `The server answered ${response.status}.` };
  }
}
