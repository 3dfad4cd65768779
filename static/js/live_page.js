/**
 * Requests in flight: the page polls them every second while it is visible, keeps their rows in place, and cancels
 * the ones that an administrator chooses.
 */

import { $, $$, csrfToken, set, templateTexts } from "./dom.js";
import { clock, count, duration, NOTHING, speed } from "./format.js";
import { showState } from "./live.js";

const EVERY_MS = 1000;
const CONFIRM_MS = 5000; // time for the second press of a button
const STALE_MS = 5000;

const words = templateTexts("[data-words]", "word");
const kinds = templateTexts("[data-kinds]", "api");
const phases = templateTexts("[data-phases]", "phase");
const [runningRow, waitingRow] = $("[data-rows]").content.children;

/* ---- rows */
const tokensPerSecond = request => {
  const seconds = (request.age_ms - request.first_token_ms) / 1000;
  return request.streamed && request.first_token_ms != null && request.deltas > 1 && seconds > 0.2
    ? request.deltas / seconds
    : null;
};
const texts = request => ({
  model: request.model,
  kind: kinds[request.kind] ?? request.kind,
  class: request.queue_class === "bulk" ? ` · ${words.bulk}` : "",
  phase: phases[request.phase],
  place: count(request.position),
  age: request.age_ms < 1000 ? duration(request.age_ms) : `${(request.age_ms / 1000).toFixed(1)} s`,
  key: request.api_key_name ?? NOTHING,
  client: request.client_ip ?? "",
  endpoint: request.endpoint_name ?? NOTHING,
  tokens: request.streamed ? count(request.deltas) : NOTHING,
  speed: speed(tokensPerSecond(request)),
});

/** Write the text of a button; screen readers also announce the model of its request. */
function label(button, text, model) {
  button.textContent = text;
  button.setAttribute("aria-label", `${text} ${model}`);
}
const modelOf = button => $("[data-cell=model]", button.closest("[data-request]")).textContent;

function fill(row, request) {
  const cells = texts(request);
  $$("[data-cell]", row).forEach(cell => set(cell, cells[cell.dataset.cell]));
  const link = $("a[data-cell=endpoint]", row);
  if (link && request.endpoint_id) link.setAttribute("href", `/endpoints/${request.endpoint_id}`);
  const button = $("[data-cancel]", row);
  if (button) label(button, button.textContent, request.model);
}

/** Move the focus from a row to the head of its table; on the next button, a key press would cancel another request. */
function moveFocusFrom(element) {
  if (element.contains(document.activeElement)) $("h2", element.closest("[data-kind]")).focus();
}

function show(kind, template, data) {
  const isComplete = data.workers_told === data.workers; // else the total is unknown
  const [requests, total] = [data[kind], isComplete ? data[`${kind}_total`] : null];
  const panel = $(`[data-kind=${kind}]`);
  const body = $("[data-live]", panel);
  const known = new Map([...body.children].map(row => [row.dataset.request, row]));
  const present = new Set(requests.map(request => request.id));
  for (const [id, row] of known) {
    if (present.has(id)) continue;
    moveFocusFrom(row);
    row.remove();
  }
  let before = null;
  for (const request of requests) {
    let row = known.get(request.id);
    if (!row) {
      row = template.cloneNode(true);
      row.dataset.request = request.id;
    }
    fill(row, request);
    const next = before ? before.nextElementSibling : body.firstElementChild;
    if (next !== row) body.insertBefore(row, next);
    before = row;
  }
  set($("[data-total]", panel), count(total));
  $("[data-none]", panel).hidden = requests.length > 0 || !isComplete;
  $("[data-more]", panel).hidden = !data[`${kind}_is_cut`];
}

/* ---- polling */
let receivedAt = 0;
async function fetchRequests() {
  try {
    const response = await fetch("/api/live", { headers: { Accept: "application/json" } });
    if (response.status === 401 || response.status === 403) return location.reload();
    if (!response.ok) throw new Error(String(response.status));
    const data = await response.json();
    show("running", runningRow, data);
    show("waiting", waitingRow, data);
    $("[data-incomplete]").hidden = data.workers_told === data.workers;
    set($("[data-clock]"), clock.format(new Date(data.at)));
    receivedAt = Date.now();
    showState("live");
  } catch {
    showState(Date.now() - receivedAt > STALE_MS ? "stale" : "reconnecting");
  }
}
let timer = 0;
async function poll() {
  clearTimeout(timer);
  if (document.hidden) return;
  await fetchRequests();
  clearTimeout(timer);
  timer = setTimeout(poll, EVERY_MS);
}
document.addEventListener("visibilitychange", poll);
poll();

/* ---- cancelling: the second press of a button confirms */
const announce = text => set($("[data-announcement]"), text);
function reset(button) {
  button.classList.remove("btn-sure");
  label(button, words.cancel, modelOf(button));
}
function requestConfirmation(button) {
  button.classList.add("btn-sure");
  label(button, words.sure, modelOf(button));
  announce(button.getAttribute("aria-label"));
  setTimeout(() => button.disabled || reset(button), CONFIRM_MS);
}
async function cancel(button) {
  const id = button.closest("[data-request]").dataset.request;
  moveFocusFrom(button);
  button.disabled = true;
  button.classList.remove("btn-sure");
  label(button, words.going, modelOf(button));
  const response = await fetch(`/api/live/${id}/cancel`, {
    method: "POST",
    headers: { "X-CSRFToken": csrfToken() },
  }).catch(() => null);
  announce(
    response?.status === 202 ? words.done : response?.status === 404 ? words.gone : words.failed,
  );
  if (response?.status !== 202 && response?.status !== 404) {
    button.disabled = false;
    reset(button);
  }
}
document.addEventListener("click", event => {
  const button = event.target.closest("[data-cancel]");
  if (button) (button.classList.contains("btn-sure") ? cancel : requestConfirmation)(button);
});
