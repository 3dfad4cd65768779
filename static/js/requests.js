/** List of requests: one request in a drawer, new requests while the page is open, and the progress of exports. */

import { $, $$, set } from "./dom.js";
import { number } from "./format.js";
import { follow } from "./live.js";
import { fetchPart } from "./parts.js";

const place = $("[data-place]");
const rows = $("[data-rows]");
const older = $("[data-older]");

/* ---- drawer with one request: its id is in the address, so back and forward work */
const drawer = () => $("[data-drawer]");
const openId = () => new URLSearchParams(location.search).get("id");
const rowOf = id => $$("tr", rows).find(row => row.dataset.id === id);

function mark(id) {
  for (const row of $$("tr", rows)) {
    row.classList.toggle("is-open", row.dataset.id === id);
    const link = $("[data-open]", row);
    if (row.dataset.id === id) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}

function close() {
  const id = drawer()?.dataset.drawer;
  drawer()?.remove();
  place.classList.remove("with-drawer");
  mark(null);
  if (id) $("[data-open]", rowOf(id) ?? rows)?.focus();
  showWaiting();
}

async function show(id) {
  const url = new URL(location.href);
  url.searchParams.set("id", id);
  url.searchParams.set("part", "drawer");
  const part = await fetchPart(url);
  if (openId() !== id) return; // the user has opened another request since
  if (!part) return location.reload();
  drawer()?.remove();
  place.append(part.content);
  place.classList.add("with-drawer");
  mark(id);
  drawer().focus({ preventScroll: true });
}

function go(id) {
  const url = new URL(location.href);
  if (id) url.searchParams.set("id", id);
  else url.searchParams.delete("id");
  history.pushState(null, "", url);
  return id ? show(id) : close();
}

addEventListener("popstate", () => (openId() ? show(openId()) : close()));
document.addEventListener("click", event => {
  if (event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
  if (event.target.closest("[data-close-drawer]")) {
    event.preventDefault();
    return go(null);
  }
  const row = event.target.closest("[data-rows] tr");
  const link = event.target.closest("a");
  if (!row || (link && !link.matches("[data-open]")) || String(getSelection())) return;
  event.preventDefault();
  if (openId() !== row.dataset.id || !drawer()) go(row.dataset.id);
});
addEventListener("keydown", event => {
  if (event.key === "Escape" && drawer() && !event.target.closest("input, select, textarea"))
    go(null);
});

/* ---- new requests: fetched when a figure has changed, at most once a second */
const OVERLAP_MS = 3000; // requests of another worker may arrive later than ones that ended after them
const EVERY_MS = 1000;
const REMEMBERED = 2000; // ids of known rows: the last few arrive again because of the overlap
const size = Number(rows.dataset.size);
const waiting = []; // rows that arrived while the drawer is open; no more than the list can show
let held = 0; // number of rows that arrived while the drawer is open
const bar = $("[data-new-rows]");
let newest = Math.max(
  Date.parse(rows.dataset.tail ?? 0),
  ...$$("tr", rows).map(row => Date.parse(row.dataset.at)),
);
const known = new Set($$("tr", rows).map(row => row.dataset.id));

const isOlder = (one, other) =>
  one.dataset.at === other.dataset.at
    ? one.dataset.id < other.dataset.id
    : one.dataset.at < other.dataset.at;

/** Insert rows by their time. The list keeps the length of a page, and "Older" begins with the rows that it drops. */
function insert(fresh) {
  for (const row of fresh) {
    const next = [...rows.children].find(other => isOlder(other, row)) ?? null;
    rows.insertBefore(row, next);
  }
  if (rows.children.length <= size) return;
  while (rows.children.length > size) rows.lastElementChild.remove();
  const url = new URL(older.href);
  url.searchParams.delete("tail");
  url.searchParams.set("cursor", rows.lastElementChild.dataset.cursor);
  older.href = url;
  older.hidden = false;
}

function showWaiting() {
  insert(waiting.splice(0));
  held = 0;
  bar.hidden = true;
  $("[data-empty]").hidden = rows.children.length > 0;
}

/** Show or hide the note that the database does not have all finished requests yet. */
function showBacklog(isBehind) {
  const note = $("[data-behind]");
  note.hidden = !isBehind;
  const notes = note.closest("[role=status]");
  notes.hidden = $$("li", notes).every(item => item.hidden);
}

function addRows(received) {
  const fresh = received.filter(row => !known.has(row.dataset.id));
  for (const row of fresh) {
    known.add(row.dataset.id);
    newest = Math.max(newest, Date.parse(row.dataset.at));
  }
  for (const id of [...known].slice(0, known.size - REMEMBERED)) known.delete(id);
  waiting.push(...fresh);
  waiting.sort((one, other) => (isOlder(one, other) ? -1 : 1)).splice(0, waiting.length - size);
  if (!drawer()) return showWaiting();
  held += fresh.length;
  bar.hidden = held === 0;
  set(bar, bar.dataset.newRows.replace("{count}", number(held)));
}

let isFetching = false;
let fetchedAt = 0;
let timer = null;
async function poll() {
  clearTimeout(timer);
  const wait = fetchedAt + EVERY_MS - Date.now();
  if (isFetching || wait > 0) {
    timer = setTimeout(poll, Math.max(wait, 100));
    return;
  }
  isFetching = true;
  fetchedAt = Date.now();
  const url = new URL(location.href);
  url.searchParams.set("part", "rows");
  url.searchParams.set("scale", rows.dataset.scale);
  url.searchParams.set("after", new Date(newest - OVERLAP_MS).toISOString());
  const part = await fetchPart(url);
  isFetching = false;
  if (!part) return;
  const received = [...part.content.children];
  showBacklog(received.some(element => element.matches("[data-more-to-come]")));
  addRows(received.filter(element => element.matches("tr")));
}

if (rows.dataset.tail) {
  bar.addEventListener("click", showWaiting);
  follow({
    overview: poll,
    changes(event) {
      if (event.stats) poll();
    },
  });
}

/* ---- exports: the browser saves the file, and the page shows the progress */
const progress = $("[data-export-progress]");
const TRIES = 10; // for an export that has not begun
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // crypto.randomUUID exists only with HTTPS
  return [...bytes].map(byte => byte.toString(16).padStart(2, "0")).join("");
}

async function watch(id, triesLeft = TRIES) {
  const response = await fetch(`/api/requests/exports/${id}`).catch(() => null);
  const state = response?.ok ? await response.json() : null;
  if (state) {
    const size = number(state.bytes / 1e6, 1);
    const text = progress.dataset[state.state];
    set(progress, text.replace("{rows}", number(state.rows)).replace("{size}", size));
  }
  if (state ? state.state === "running" : triesLeft > 0)
    setTimeout(watch, 500, id, state ? TRIES : triesLeft - 1);
}

for (const link of $$("[data-export]"))
  link.addEventListener("click", () => {
    const url = new URL(link.href);
    const id = newId();
    url.searchParams.set("progress", id.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-"));
    link.href = url;
    setTimeout(watch, 500, url.searchParams.get("progress"));
  });
