/** Overview: its figures, chart and tables follow the stream of events. Without scripts the page is complete, too. */

import { barChart } from "./bars.js";
import { colour } from "./colours.js";
import { $, $$, fromTemplate, set, setUnits } from "./dom.js";
import { showLatency, showStatus } from "./endpoint_status.js";
import { compact, count, duration, hourMinute, rate, share, since, span, speed } from "./format.js";
import { follow, OVERVIEW } from "./live.js";
import { fetchPart, swapParts } from "./parts.js";

const SPARKS_EVERY = 10000; // ms
let live = JSON.parse($("#shown").textContent); // until the first event: the data that the server has rendered
const sum = (rows, name) => rows.reduce((total, row) => total + row[name], 0);

/* ---- chart of the last 60 minutes, first from its table */
let slots = $$("[data-minute]")
  .reverse()
  .map(({ dataset: { minute, success, error } }) => ({
    minute,
    success: Number(success),
    error: Number(error),
  }));
const minuteOf = slot => Date.parse(slot.minute) / 60000;

/* Endpoint events stand above the chart. The server renders them; the script places them and draws their lines. */
const EVENT_COLOURS = { online: "--ok", offline: "--bad", error: "--bad" };

function drawEvents(plot) {
  const { ctx: pen, bbox } = plot;
  pen.save();
  pen.lineWidth = devicePixelRatio;
  pen.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
  for (const event of $$("[data-at]")) {
    // The middle of a minute's bar is where the minute begins: half a minute earlier.
    const at = Date.parse(event.dataset.at) / 60000 - 0.5 - minuteOf(slots[0]);
    event.hidden = at < -0.6 || at > slots.length - 0.4;
    if (event.hidden) continue;
    event.style.left = `${plot.over.offsetLeft + plot.valToPos(at, "x")}px`;
    const x = Math.round(plot.valToPos(at, "x", true)) + 0.5;
    pen.strokeStyle = colour(EVENT_COLOURS[event.dataset.kind] ?? "--line-strong");
    pen.beginPath();
    pen.moveTo(x, bbox.top);
    pen.lineTo(x, bbox.top + bbox.height);
    pen.stroke();
  }
  pen.restore();
}

const readout = $("[data-readout]");
function read(index) {
  const slot = slots[index];
  const at = slot => hourMinute.format(new Date(slot.minute));
  const [success, error] = slot
    ? [slot.success, slot.error]
    : [sum(slots, "success"), sum(slots, "error")];
  const time = slot ? at(slot) : `${at(slots[0])}–${at(slots[slots.length - 1])}`;
  set($("[data-read=time]", readout), time);
  set($("[data-read=success]", readout), count(success));
  set($("[data-read=error]", readout), count(error));
  set($("[data-read=rate]", readout), rate(success, success + error));
}

function openRequests(index) {
  const since = new Date(slots[index].minute);
  const until = new Date(since.getTime() + 60000);
  const query = new URLSearchParams({ since: since.toISOString(), until: until.toISOString() });
  location.assign(`${chart.dataset.requests}?${query}`);
}

const chart = $("[data-chart]");
const drawMinutes = barChart(chart, {
  bars: () =>
    slots.map((slot, index) => ({
      lower: slot.error,
      upper: slot.success,
      label: minuteOf(slot) % 10 === 0 ? hourMinute.format(new Date(slot.minute)) : "",
      unfinished: index === slots.length - 1,
    })),
  hatched: true,
  least: 4, // a failure is never too small to see
  labelWidth: 44,
  read,
  open: openRequests,
  drawn: drawEvents,
});

/* ---- popovers that explain a figure: beside their button on wide screens, else at the bottom */
for (const pop of $$("[popover]")) {
  pop.addEventListener("toggle", event => {
    const button = $(`[popovertarget="${pop.id}"]`);
    button.setAttribute("aria-expanded", String(event.newState === "open"));
    pop.classList.remove("placed");
    if (event.newState !== "open" || innerWidth < 640) return;
    const at = button.getBoundingClientRect();
    pop.classList.add("placed");
    pop.style.left = `${Math.max(16, Math.min(at.right - pop.offsetWidth + 8, innerWidth - pop.offsetWidth - 16))}px`;
    const under = at.bottom + 6;
    pop.style.top = `${under + pop.offsetHeight < innerHeight ? under : Math.max(8, at.top - pop.offsetHeight - 6)}px`;
  });
}

/* ---- meters: `meter` in metrics/templatetags/figures.py renders them, and the script fills a part of each */
function fillMeter(meter, value) {
  const most = Number(meter.dataset.most);
  meter.lastElementChild.setAttribute(
    "width",
    `${Math.min(100, (100 * value) / most).toFixed(1)}%`,
  );
  meter.classList.toggle("full", value >= most && !meter.classList.contains("calm"));
}

/* ---- figures into the page */
function showStats() {
  const { stats, history } = live;
  const [ok, failed] = [sum(history, "success"), sum(history, "error")];
  const today = stats.today_input_tokens + stats.today_output_tokens;
  const texts = {
    ...Object.fromEntries(Object.entries(stats).map(([name, value]) => [name, count(value)])),
    tokens_per_second: speed(stats.tokens_per_second),
    success_rate: rate(ok, ok + failed),
    recent_failed: count(failed),
    today_tokens: compact(today),
    average_response_time_ms: duration(stats.average_response_time_ms),
    p95_response_time_ms: duration(stats.p95_response_time_ms),
    p50_first_token_ms: duration(stats.p50_first_token_ms),
    oldest_waiting_secs: span(stats.oldest_waiting_secs),
  };
  $("[data-figures-version]").dataset.figuresVersion = stats.figures_version;
  $$("[data-stat]").forEach(element => {
    const text = texts[element.dataset.stat];
    if (element.dataset.units === undefined) set(element, text);
    else setUnits(element, text);
  });
  $("[data-stat=today_tokens]").title = count(today);
  const caption = stats.successful_requests ? "served" : "unserved";
  $$("[data-caption]").forEach(element => (element.hidden = element.dataset.caption !== caption));
}

function showPeaks() {
  for (const element of $$("[data-peak]")) {
    const measured = live.minutes
      .map(minute => minute[element.dataset.peak])
      .filter(value => value != null);
    set(element, count(measured.length ? Math.max(...measured) : null));
  }
}

function reasonText(endpoint, text) {
  if (!["offline", "error"].includes(endpoint.status) || endpoint.operator_state !== "enabled")
    return "";
  const at = endpoint.status_since && since(new Date(endpoint.status_since));
  return [at, text].filter(Boolean).join(" · ");
}

/* The server renders errors in the viewer's language: rows are fetched once for each new error. */
const errors = new Map();
function showError(place, endpoint) {
  const error = endpoint.last_error ?? "";
  const known = place.dataset.error === error || !error;
  if (known || errors.get(endpoint.id) === error)
    set(place, reasonText(endpoint, known && error ? place.title : ""));
  else refreshSoon("endpoints");
  errors.set(endpoint.id, error);
}

function showEndpoint(row, endpoint) {
  $$("[data-value]", row).forEach(cell => set(cell, count(endpoint[cell.dataset.value])));
  showStatus(row, endpoint);
  showError($("[data-error]", row), endpoint);
  showLatency($("[data-latency]", row), endpoint);
  const meter = $(".meter", row);
  if (meter) fillMeter(meter, endpoint.active_requests);
  set($("[data-speed]", row), speed(endpoint.tokens_per_second));
  const failed = endpoint.recent_attempts ? endpoint.recent_failures / endpoint.recent_attempts : 0;
  const ratio = $("[data-ratio]", row);
  ratio.className = failed >= 0.1 ? "bad" : failed >= 0.02 ? "warn" : "";
  set(ratio, share(endpoint.recent_failures, endpoint.recent_attempts));
}

/* ---- numbers of endpoints by status, below the table of a large installation */
function showStates() {
  for (const link of $$("[data-state-link]")) {
    const number = live.states[link.dataset.stateLink] ?? 0;
    link.hidden = number === 0;
    set($("[data-state-count]", link), count(number));
  }
}

/* ---- the busiest models, keys and clients */
function rankRow(list, { id, label, requests }, most) {
  const row = fromTemplate("[data-rank-row]");
  const [link, text] = $$("[data-name]", row);
  const name = id ? link : text;
  (id ? text : link).remove();
  if (id) name.href = list.dataset.url + encodeURIComponent(id);
  name.classList.toggle("mono", Boolean(id) && list.dataset.rank !== "api_keys");
  set(name, label);
  set($("[data-requests]", row), count(requests));
  const meter = $(".meter", row);
  meter.dataset.most = most;
  fillMeter(meter, requests);
  return row;
}

function showBusiest() {
  const keyLabel = (row, { noKey, deletedKey }) =>
    row.api_key_id ? (row.api_key_name ?? deletedKey) : noKey;
  for (const list of $$("[data-rank]")) {
    const rows = live.busiest[list.dataset.rank].map(row => ({
      id: row.model_id ?? row.ip ?? row.api_key_id,
      label: row.model_id ?? row.ip ?? keyLabel(row, list.dataset),
      requests: row.requests,
    }));
    if (rows.length) list.replaceChildren(...rows.map(row => rankRow(list, row, rows[0].requests)));
    else list.replaceChildren(fromTemplate("[data-rank-none]"));
  }
}

/* ---- tokens per second of models */
const speedKey = row => [row.endpoint_id, row.model_id, row.api_kind].join("\n");
let speedRows = new Map();

function fillSpeed(row, figures) {
  const texts = {
    endpoint: figures.endpoint_name,
    model: figures.model_id,
    api:
      $(`[data-api="${CSS.escape(figures.api_kind)}"]`, $("[data-apis]").content)?.textContent ??
      figures.api_kind,
    speed: speed(figures.tps),
    requests: count(figures.request_count),
    tokens: count(figures.total_output_tokens),
  };
  for (const cell of row.cells) set(cell, texts[cell.dataset.cell]);
  return row;
}

function showSpeeds(speeds) {
  const table = $("[data-speeds]");
  if (!table) return;
  speedRows = new Map(
    speeds.map(figures => [
      speedKey(figures),
      fillSpeed(fromTemplate("[data-speed-row]"), figures),
    ]),
  );
  if (speeds.length) table.replaceChildren(...speedRows.values());
  else table.replaceChildren(fromTemplate("[data-speed-none]"));
}

function showMore() {
  const note = $("[data-speeds-more]");
  if (note) note.hidden = live.speeds_known <= live.speeds.length;
}

const minutesTable = $("[data-minutes-table]");
minutesTable.open = false; // without a script it stands in for the chart
minutesTable.classList.add("ready");

function showMinutes() {
  const rows = $("[data-minutes]").children;
  [...slots].reverse().forEach((slot, at) => {
    const texts = [
      hourMinute.format(new Date(slot.minute)),
      count(slot.success),
      count(slot.error),
    ];
    [...rows[at].cells].forEach((cell, column) => set(cell, texts[column]));
  });
}

/* ---- parts that the server renders: fetched again after their data have changed */
async function refresh(name) {
  const part = await fetchPart(`?part=${name}`);
  if (!part) return;
  swapParts(part.content);
  if (name === "marks") drawMinutes();
  if (name === "endpoints") showTables();
  if (name === "attention") showStats();
}
const due = new Map();
const fetchedAt = new Map();
const LEAST_PAUSE = 2000; // ms between two requests of a part: an event may come four times a second
function refreshSoon(name, wait = 400 * Math.random()) {
  if (due.has(name)) return;
  const pause = (fetchedAt.get(name) ?? -LEAST_PAUSE) + LEAST_PAUSE - performance.now();
  const fetchNow = () => {
    due.delete(name);
    fetchedAt.set(name, performance.now());
    if (!document.hidden || name !== "sparks") refresh(name);
  };
  due.set(name, setTimeout(fetchNow, Math.max(wait, pause + wait))); // at a random moment, so that not all open pages fetch at once
}
const refreshSparks = () => refreshSoon("sparks", SPARKS_EVERY);

/* ---- events: all data at first, then changes (metrics/api/event_stream.py) */
let rows = new Map();
const shapeOf = ({ endpoints }) =>
  endpoints
    .map(endpoint => `${endpoint.id} ${endpoint.slots}`)
    .sort()
    .join();
const asText = JSON.stringify;
const refreshRows = () => $("[data-first-run]") || refreshSoon("endpoints"); // first_run.js opens the overview itself

function showRows(endpoints) {
  endpoints.forEach(endpoint => {
    const row = rows.get(endpoint.id);
    if (row) showEndpoint(row, endpoint);
  });
}

function showHistory() {
  slots = live.history;
  drawMinutes();
  showMinutes();
}

function showTables() {
  rows = new Map($$("[data-endpoint]").map(row => [row.dataset.endpoint, row]));
  showRows(live.endpoints);
  showSpeeds(live.speeds);
  showMore();
}

function showAll(fresh) {
  const before = live;
  live = fresh;
  if (shapeOf(before) !== shapeOf(live)) refreshRows(); // the server renders rows
  for (const name of ["attention", "marks"])
    if (asText(before[name]) !== asText(live[name])) refreshSoon(name);
  if (before.attention_count !== live.attention_count) refreshSoon("attention");
  showStates();
  showStats();
  showPeaks();
  if (before.history) refreshSparks();
  showTables();
  showBusiest();
  showHistory();
}

const merged = (old, changed) => {
  const minutes = new Map([...old, ...changed].map(slot => [slot.minute, slot]));
  return [...minutes.values()].slice(-60);
};

/* `shown` has the ids of all rows, if other endpoints matter now. */
function showChangedRows(changed, shown) {
  const shape = shapeOf(live);
  const known = new Map(live.endpoints.map(endpoint => [endpoint.id, endpoint]));
  for (const [id, fields] of Object.entries(changed))
    known.set(id, Object.assign(known.get(id) ?? {}, fields));
  if (shown) live.endpoints = shown.map(id => known.get(id));
  if (shape !== shapeOf(live)) refreshRows();
  showRows(live.endpoints.filter(({ id }) => id in changed));
}

function showChanges(part) {
  live.generated_at = part.generated_at;
  Object.assign(live.stats, part.stats);
  if (part.endpoints || part.shown) showChangedRows(part.endpoints ?? {}, part.shown);
  if (part.states) {
    live.states = part.states;
    showStates();
  }
  if (part.all_speeds) {
    live.speeds = part.all_speeds;
    showSpeeds(live.speeds);
  }
  (part.speeds ?? []).forEach(figures => {
    const row = speedRows.get(speedKey(figures));
    if (row) fillSpeed(row, figures);
  });
  live.speeds_known = part.speeds_known ?? live.speeds_known;
  showMore();
  if (part.history) live.history = merged(live.history, part.history);
  if (part.minutes) live.minutes = merged(live.minutes, part.minutes);
  if (part.history) showHistory();
  if (part.minutes) showPeaks();
  if (part.history || part.minutes) refreshSparks();
  if (part.stats || part.history) showStats();
  if (part.busiest) {
    live.busiest = part.busiest;
    showBusiest();
  }
  for (const name of ["attention", "attention_count", "marks"]) {
    if (part[name] === undefined) continue;
    live[name] = part[name];
    refreshSoon(name === "marks" ? name : "attention");
  }
}

read(null);
follow({ overview: showAll, changes: showChanges }, OVERVIEW);
