/** List of endpoints: selection of several, filters without loading the page, and live figures. */

import { $, $$, set } from "./dom.js";
import { showLatency, showStatus } from "./endpoint_status.js";
import { count, speed } from "./format.js";
import { follow, followOnly } from "./live.js";
import { load } from "./parts.js";
import { throttle } from "./throttle.js";

const filters = $("#filters");

// The default order is not in the address.
filters.addEventListener("part:fields", event => {
  if (event.detail.get("sort") === "status") event.detail.delete("sort");
});

/* ---- selection */
const boxes = () => $$("[data-list] input[name=endpoint]");
function showChosen() {
  const number = boxes().filter(box => box.checked).length;
  const text = $("[data-chosen]");
  if (!text) return;
  set(text, number ? text.dataset.some.replace("{number}", count(number)) : text.dataset.none);
  $("[data-bulk-bar]").classList.toggle("chosen", number > 0);
  $$("[data-bulk-bar] button").forEach(button => (button.disabled = number === 0));
  const all = $("[data-choose-all]");
  all.checked = number > 0 && number === boxes().length;
  all.indeterminate = number > 0 && !all.checked;
}
let last = null;
document.addEventListener("click", event => {
  const box = event.target.closest("[data-list] input[name=endpoint]");
  if (!box) return;
  if (event.shiftKey && last?.isConnected) {
    const [from, to] = [boxes().indexOf(last), boxes().indexOf(box)].sort(
      (one, other) => one - other,
    );
    boxes()
      .slice(from, to + 1)
      .forEach(other => (other.checked = box.checked));
  }
  last = box;
  showChosen();
});
document.addEventListener("change", event => {
  if (event.target.matches("[data-choose-all]"))
    boxes().forEach(box => (box.checked = event.target.checked));
  showChosen();
});

/* ---- refresh of the table, unless rows are selected */
const INTERVAL_MS = 2000;
const isSelecting = () => boxes().some(box => box.checked);
const { request: refresh, resume } = throttle(
  () => load(filters, location.pathname + location.search),
  INTERVAL_MS,
  () => isSelecting() || document.hidden,
);
document.addEventListener("visibilitychange", resume);
document.addEventListener("change", resume);

/* Endpoints were added or removed, or belong on another page: the server renders the rows. */
const digests = {};
function showDigests({ endpoints_digest: endpoints, states_digest: states }) {
  Object.assign(digests, endpoints && { endpoints }, states && { states });
  const list = $("[data-list]").dataset;
  const depends = list.paged !== undefined || filters.elements.status.value;
  const differs =
    digests.endpoints !== list.endpointsDigest || (depends && digests.states !== list.statesDigest);
  if (digests.endpoints && differs) refresh();
}

/* ---- figures */
let rows = new Map();
const live = new Map(); // figures of endpoints, by id

function findRows() {
  rows = new Map($$("[data-endpoint]").map(row => [row.dataset.endpoint, row]));
  live.forEach(show);
  showChosen();
}

/* The server renders errors in the viewer's language: rows are fetched once for each new error. */
const errors = new Map();
function showError(place, id, error) {
  if (place.dataset.error === error) return;
  if (!error) {
    place.dataset.error = "";
    set(place, "");
  } else if (errors.get(id) !== error) refresh();
  errors.set(id, error);
}

function show(endpoint) {
  const row = rows.get(endpoint.id);
  if (!row) return;
  $$("[data-value]", row).forEach(cell => set(cell, count(endpoint[cell.dataset.value])));
  showStatus(row, endpoint);
  set($("[data-speed]", row), speed(endpoint.tokens_per_second));
  showError($("[data-error]", row), endpoint.id, endpoint.last_error ?? "");
  showLatency($("[data-latency]", row), endpoint);
}

function showAll(event) {
  live.clear();
  event.endpoints.forEach(endpoint => live.set(endpoint.id, endpoint));
  live.forEach(show);
  showDigests(event);
}

function showChanges(event) {
  for (const [id, changed] of Object.entries(event.endpoints ?? {})) {
    const endpoint = Object.assign(live.get(id) ?? {}, changed);
    live.set(id, endpoint);
    show(endpoint);
  }
  showDigests(event);
}

document.addEventListener("part:swapped", () => {
  findRows();
  filters.elements.sort.value = $("[data-list]").dataset.list; // a column head may have sorted the list
  followOnly([...rows.keys()]);
});
findRows();
follow({ overview: showAll, changes: showChanges }, [...rows.keys()]);
