/**
 * Live events of a page: one stream, a sign with its state, and the login page after the session has ended.
 *
 * A broken stream is opened again, later each time and at a random moment, and continues after the last event. Where no
 * stream comes through, as behind a proxy that buffers responses, the page polls the same events every few seconds.
 */

import { $, $$, set } from "./dom.js";
import { clock, span } from "./format.js";

const EVENTS = "/api/dashboard/events";
const FIRST_WAIT = 500; // ms before the first new try, doubled with each one up to the longest
const LONGEST_WAIT = 15000;
const SILENCE = 25000; // a stream sends something every 10 s
const OPENING = 6000; // a new stream begins with an event
const POLL_EVERY = 3000;
const POLLS = 40; // then the page tries a stream again
const STALE = 20000;
const HIDDEN = 30000; // a hidden page closes its connection, because a browser has only six

/* ---- a tab with the login page makes the other tabs check their session */
const tabs = new BroadcastChannel("routerdash");
if (document.body.dataset.page === "login") tabs.postMessage("login");

/* ---- the sign: live, connecting, or as of a moment; some pages have none */
const sign = $("[data-live-sign]");
const word = $("[data-sign-word]");
export function showState(name) {
  if (!sign || sign.dataset.state === name) return;
  sign.dataset.state = name;
  set(word, word.dataset[name]);
  set($("[data-sign-announcement]"), word.dataset[name]);
}

const isRefused = response => response?.status === 401 || response?.status === 403;

/* The server redirects to the login page or to the change of the password. */
async function reloadIfRefused() {
  const response = await fetch("/api/dashboard/stats").catch(() => null);
  if (isRefused(response)) location.reload();
}

/* ---- ages grow between events */
let ahead = 0; // ms that the server's clock is ahead of this one
/** Return how long ago a moment was, by the server's clock. */
export const age = moment => span(Math.max(0, (Date.now() + ahead - Date.parse(moment)) / 1000));
setInterval(() => {
  for (const element of $$("[data-age]").filter(age => age.dataset.age))
    set(element, age(element.dataset.age));
}, 5000);

const followers = [];
let followed = new Set(); // ids of endpoints; null: those that the overview shows
let source = null;
let lastId = "";
let receivedAt = Date.now();
let tries = 0;
let polls = 0; // how many are left until the next try of a stream
let timer = 0;
let silenceTimer = 0;

const schedule = (task, wait) => {
  clearTimeout(timer);
  timer = setTimeout(task, wait);
};
const address = more => {
  const query = new URLSearchParams(more);
  if (lastId) query.set("last_event_id", lastId);
  if (followed) query.set("endpoints", [...followed].join(","));
  return `${EVENTS}?${query}`;
};

function receive(name, id, data) {
  receivedAt = Date.now();
  tries = 0;
  lastId = id;
  showState("live");
  const event = JSON.parse(data);
  if (event.generated_at) {
    set($("[data-clock]"), clock.format(new Date(event.generated_at)));
    ahead = Date.parse(event.generated_at) - Date.now();
  }
  if (event.stats?.total_runtimes) $("[data-no-endpoints]")?.remove(); // one was added after the page was loaded
  followers.forEach(listeners => listeners[name]?.(event));
}

function disconnect() {
  clearTimeout(timer);
  clearTimeout(silenceTimer);
  source?.close();
  source = null;
}

function openStream() {
  disconnect();
  source = new EventSource(address());
  const expectWithin = wait => {
    clearTimeout(silenceTimer);
    silenceTimer = setTimeout(() => (wait === OPENING ? poll(POLLS) : reconnect()), wait);
  };
  expectWithin(OPENING);
  // A stream without missed events begins with none.
  source.addEventListener("open", () => lastId && expectWithin(SILENCE));
  for (const name of ["overview", "changes"]) {
    source.addEventListener(name, event => {
      expectWithin(SILENCE);
      receive(name, event.lastEventId, event.data);
    });
  }
  source.addEventListener("error", () => {
    const refused = source?.readyState === EventSource.CLOSED;
    reconnect();
    if (refused) reloadIfRefused().then(pollIfFull);
  });
}

function reconnect() {
  disconnect();
  showState("reconnecting");
  const longest = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** tries);
  tries += 1;
  schedule(openStream, longest * (0.5 + Math.random() / 2));
}

/* The streams of a user are limited; pages beyond the limit poll. */
async function pollIfFull() {
  const response = await fetch(address({ once: "" })).catch(() => null);
  if (response?.headers.get("X-RouterDash-Streams") === "full" && !source) poll(POLLS);
}

async function poll(left) {
  disconnect();
  polls = left;
  const response = await fetch(address({ once: "" })).catch(() => null);
  if (source || document.hidden) return;
  if (isRefused(response)) return location.reload();
  if (response?.ok) {
    (await response.text()).split("\n\n").forEach(receiveText);
    receivedAt = Date.now();
    showState("live");
  } else showState("reconnecting");
  schedule(
    () => (left > 0 ? poll(left - 1) : openStream()),
    POLL_EVERY * (0.8 + 0.4 * Math.random()),
  );
}

/* Receive an event in the text format of a stream. */
function receiveText(text) {
  const field = name => text.match(new RegExp(`^${name}: (.*)$`, "m"))?.[1];
  if (field("event")) receive(field("event"), field("id"), field("data"));
}

function connect() {
  setInterval(() => {
    if (!document.hidden && Date.now() - receivedAt > STALE) showState("stale");
  }, 1000);
  tabs.addEventListener("message", reloadIfRefused);
  addEventListener("online", () => !source && openStream());
  let hidden = 0;
  document.addEventListener("visibilitychange", () => {
    clearTimeout(hidden);
    if (document.hidden) hidden = setTimeout(disconnect, HIDDEN);
    else if (!source) {
      tries = 0;
      showState("reconnecting");
      if (polls > 0) poll(polls);
      else openStream();
    }
  });
  openStream();
}

/**
 * Follow the dashboard's events. `listeners` has a function for each name of an event (metrics/api/event_stream.py); it
 * is called with the data. `overview` comes first, and again whenever changes are not enough. The events have the
 * endpoints of these ids; with `OVERVIEW`, those that the overview shows.
 */
export const OVERVIEW = null;
export function follow(listeners, ids = []) {
  followers.push(listeners);
  const isFirst = followers.length === 1;
  followed = ids === OVERVIEW || !followed ? null : new Set([...followed, ...ids]);
  if (isFirst) return connect();
  restart(); // a later follower needs all data, too
}

/** Follow other endpoints than before: the page shows others now. */
export function followOnly(ids) {
  if (ids.length === followed.size && ids.every(id => followed.has(id))) return;
  followed = new Set(ids);
  restart();
}

function restart() {
  lastId = "";
  openStream();
}
