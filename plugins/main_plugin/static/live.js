// The socket: one connection for as long as someone is signed in.

import { Problem } from "./api.js";
import { io } from "./socket.io.esm.min.js";

const ACK_MS = 6_000;
const AGAIN_MS = 1_000;

/** Connect as the user of `session`; `say(state)` is told `live` or `connecting`. */
export function connect(session, say) {
  const socket = io({
    // A WebSocket works on any number of workers; long polling, where a network lets nothing else through, needs a front that
    // keeps a client on one worker (haproxy/haproxy.cfg).
    transports: ["websocket", "polling"],
    tryAllTransports: true,
    auth: (give) => session.token().then((token) => give({ token }), () => give({})),
    forceNew: true,
  });
  let timer = 0;
  const again = () => {
    clearTimeout(timer);
    // Not all pages at the same moment, when a server has ended.
    timer = setTimeout(() => session.user && socket.connect(), AGAIN_MS * (1 + Math.random()));
  };

  socket.on("connect", () => say("live"));
  socket.on("disconnect", () => {
    say("connecting");
    // The library goes on by itself, but for a goodbye of the server.
    if (!socket.active && session.user) again();
  });
  socket.on("connect_error", (error) => {
    say("connecting");
    if (error.data?.code === "session-revoked") session.end(error.message);
    else if (!socket.active) again();
  });
  socket.on("session_revoked", ({ reason }) => {
    if (reason === "session-revoked") session.end("This session was ended.");
  });
  // A socket ends with the token that it was opened with.
  const reopen = () => socket.disconnect().connect();
  session.addEventListener("renewed", reopen);

  socket.leaveForGood = () => {
    clearTimeout(timer);
    session.removeEventListener("renewed", reopen);
    socket.off().disconnect();
  };
  return socket;
}

/** Send an event; what its ack holds. Throws Problem. */
export async function ask(socket, event, data) {
  let ack;
  try {
    ack = await socket.timeout(ACK_MS).emitWithAck(event, data);
  } catch {
    throw new Problem({ status: 0, code: "unreachable", detail: "The server cannot be reached just now." });
  }
  if (!ack.ok) throw new Problem(ack.error);
  return ack;
}
