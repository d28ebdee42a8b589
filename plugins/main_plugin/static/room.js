// One room: who is there, and what is said.

import { byId, make, onSubmit, say } from "./dom.js";
import { ask } from "./live.js";

const KEPT = 200;
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });

export class Room {
  #socket;
  #me;
  #name = null;
  // By user id; people who have left are still named beside what they said.
  #names = new Map();

  constructor(socket, me) {
    this.#socket = socket;
    this.#me = me;
    this.#names.set(me.id, me.username);
    socket.on("message", (message) => message.room === this.#name && this.#hear(message));
    socket.on("presence", (presence) => presence.room === this.#name && this.#see(presence));
  }

  async join(name) {
    if (this.#name !== null && this.#name !== name) await this.leave();
    await ask(this.#socket, "join_room", { room: name });
    if (this.#name !== name) byId("messages").replaceChildren();
    this.#name = name;
    byId("room-name").textContent = name;
    byId("in-room").hidden = false;
    await this.#look();
  }

  async leave() {
    const room = this.#name;
    this.#name = null;
    byId("in-room").hidden = true;
    byId("present").replaceChildren();
    await ask(this.#socket, "leave_room", { room });
  }

  /** A new connection is in no room. */
  async rejoin() {
    if (this.#name !== null) await this.join(this.#name);
  }

  async talk(text) {
    await ask(this.#socket, "send_message", { room: this.#name, data: { text } });
  }

  async #look() {
    this.#see(await ask(this.#socket, "presence", { room: this.#name }));
  }

  #see({ users, size }) {
    for (const { user_id: id, username } of users) this.#names.set(id, username);
    const present = [...new Set(users.map((user) => user.user_id))];
    byId("room-size").textContent = `(${Math.max(size, present.length)})`;
    byId("present").replaceChildren(...present.map((id) => make("li", "", this.#nameOf(id))));
  }

  #hear({ from, data, at }) {
    const list = byId("messages");
    const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    const text = typeof data?.text === "string" ? data.text : JSON.stringify(data);
    const time = make("time", "", clock.format(new Date(at)));
    const item = make("li", from === this.#me.id ? "own" : "", make("b", "", this.#nameOf(from)), " ", time, make("p", "", text));
    list.append(item);
    while (list.childElementCount > KEPT) list.firstElementChild.remove();
    if (isAtEnd) list.scrollTop = list.scrollHeight;
  }

  #nameOf(id) {
    const name = this.#names.get(id) ?? "someone";
    return id === this.#me.id ? `${name} (you)` : name;
  }
}

/** Wire the forms to the room that `current()` returns. */
export function wireRoom(current) {
  onSubmit(byId("join-form"), async ({ room }) => {
    await current().join(room.trim());
    byId("text").focus();
  });
  onSubmit(byId("talk-form"), async ({ data }) => {
    await current().talk(data);
    byId("talk-form").reset();
  });
  byId("leave").addEventListener("click", async () => {
    byId("room").focus();
    // Without an answer the connection is gone, and the room with it.
    await current().leave().catch(() => {});
  });
}

/** As before anyone came in. */
export function clearRoom() {
  byId("in-room").hidden = true;
  byId("messages").replaceChildren();
  byId("present").replaceChildren();
  say(byId("join-form").querySelector(".error"), null);
}
