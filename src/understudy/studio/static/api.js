/** The server, as the page sees it: one session per browser, a key where one is asked for, streams that come back. */

import { byId } from "./elements.js";

const ROOT = new URL("../api/", import.meta.url);
const WAITS = [400, 1000, 2000, 4000]; // milliseconds between attempts to reach a server that is gone
const SILENCE = 45_000; // milliseconds
const memory = new Map();

/** What the server refuses, in its own words. `param` names the field, `column` the place in a schedule. */
export class Refusal extends Error {
  constructor(status, { message, param = null, column = null }) {
    super(message);
    Object.assign(this, { status, param, column });
  }
}

class Unreachable extends Error {}

/** Storage that may be forbidden; what is kept then lasts as long as the page. */
export function stored(kind, name, value) {
  try {
    const storage = window[kind];
    if (value !== undefined) storage.setItem(name, value);
    return storage.getItem(name);
  } catch {
    if (value !== undefined) memory.set(name, value);
    return memory.get(name) ?? null;
  }
}

function session() {
  const known = stored("localStorage", "understudy-session");
  if (known) return known;
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return stored("localStorage", "understudy-session", [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join(""));
}

async function send(path, { method = "GET", body, signal, headers = {} } = {}) {
  const key = stored("sessionStorage", "understudy-key");
  const options = {
    method,
    signal,
    cache: "no-store",
    headers: {
      "X-Studio-Session": session(),
      ...(key ? { Authorization: `Bearer ${key}` } : {}),
      ...(body ? { "Content-Type": "application/json" } : {}),
      ...headers,
    },
    body: body && JSON.stringify(body),
  };
  let answer;
  try {
    answer = await fetch(new URL(path, ROOT), options);
  } catch (error) {
    throw error.name === "AbortError" ? error : new Unreachable();
  }
  if (answer.status === 401) {
    await askForKey(Boolean(key));
    return send(path, { method, body, signal, headers });
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

async function refusal(answer) {
  const content = await answer.json().catch(() => ({}));
  const said = content.error ?? { message: `the server answers with status ${answer.status}` };
  const wait = answer.headers.get("Retry-After");
  const message = answer.status === 429 && wait ? `${said.message} (in ${wait} s there may be room)` : said.message;
  return new Refusal(answer.status, { ...said, message });
}

let asking = null;

/** One dialog, however many requests want the key. */
function askForKey(wasRefused) {
  asking ??= new Promise((resolve) => {
    const dialog = byId("key-dialog");
    byId("key-message").textContent = wasRefused ? "The server does not take this key." : "";
    dialog.addEventListener("close", () => {
      asking = null;
      stored("sessionStorage", "understudy-key", byId("key").value.trim());
      byId("key").value = "";
      resolve();
    }, { once: true });
    dialog.addEventListener("cancel", (event) => event.preventDefault()); // without a key there is nothing to see
    dialog.showModal();
  });
  return asking;
}

/** Say that the server is gone, or that it is back. */
function showConnection(isThere) {
  const line = byId("connection");
  const before = document.body.dataset.connection;
  document.body.dataset.connection = isThere ? "there" : "gone";
  line.hidden = isThere;
  line.textContent = isThere ? "" : "The server does not answer. Trying again until it does; nothing shown here is lost.";
  if (before !== document.body.dataset.connection) document.dispatchEvent(new CustomEvent("connection"));
}

export function isServerGone() {
  return document.body.dataset.connection === "gone";
}

function pause(attempt, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, WAITS[Math.min(attempt, WAITS.length - 1)]);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("", "AbortError"));
    }, { once: true });
  });
}

/** Do something with the server, again and again while it is out of reach. */
async function persist(action, signal) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      const found = await action();
      showConnection(true);
      return found;
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error;
      showConnection(false);
      await pause(attempt, signal);
    }
  }
}

export function get(path, signal) {
  return persist(async () => (await send(path, { signal })).json(), signal);
}

export function post(path, body, signal) {
  return persist(async () => (await send(path, { method: "POST", body, signal })).json(), signal);
}

export function remove(path) {
  return persist(() => send(path, { method: "DELETE" }));
}

/** Give every event of a run from `after` on, reconnecting as often as it takes. */
export async function* follow(id, signal) {
  let last = 0;
  for (let attempt = 0; ; attempt += 1) {
    const answer = await persist(
      () => send(`runs/${id}/events`, { signal, headers: last ? { "Last-Event-ID": String(last) } : {} }), signal);
    try {
      for await (const event of readEvents(answer.body)) {
        last = event.index;
        attempt = 0;
        yield event;
        if (["done", "failed", "cancelled"].includes(event.kind)) return;
      }
    } catch (error) {
      if (error.name === "AbortError") throw error;
    }
    await pause(attempt, signal);
  }
}

/** Read server-sent events: only `data` lines matter, since each says its index and kind itself. */
async function* readEvents(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    // The server says something every quarter of a minute; one that is silent for longer is no longer there.
    const silence = setTimeout(() => reader.cancel(), SILENCE);
    const { value, done } = await reader.read();
    clearTimeout(silence);
    if (done) return;
    buffer += value;
    const blocks = buffer.split("\n\n");
    buffer = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6));
      if (data.length) yield JSON.parse(data.join("\n"));
    }
  }
}
