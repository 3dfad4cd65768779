/** Page of one endpoint: its figures, days and requests follow the stream of events, and its buttons work in place. */

import { barChart } from "./bars.js";
import { $, $$, fromTemplate, set } from "./dom.js";
import { followEndpoint, live, showState } from "./endpoint_live.js";
import { count, duration, NOTHING, rate, span } from "./format.js";
import { fetchPart, swapParts } from "./parts.js";

const panel = $("[data-live-endpoint]");
const id = panel.dataset.liveEndpoint;

/* ---- chart of days, from their table */
const readDays = () =>
  $$("[data-day]")
    .reverse()
    .map(row => ({
      label: row.dataset.label,
      ok: Number(row.dataset.ok),
      failed: Number(row.dataset.failed),
      requests: $("a", row).href,
    }));
let days = readDays(); // oldest first

function read(index) {
  const box = $("[data-readout]");
  const day = days[index];
  const sum = name => days.reduce((total, day) => total + day[name], 0);
  const [ok, failed] = day ? [day.ok, day.failed] : [sum("ok"), sum("failed")];
  const ends = [days[0].label, days[days.length - 1].label];
  set($("[data-read=day]", box), day ? day.label : [...new Set(ends)].join("–"));
  set($("[data-read=ok]", box), count(ok));
  set($("[data-read=failed]", box), count(failed));
  set($("[data-read=rate]", box), rate(ok, ok + failed));
}

const drawDays = barChart($("[data-chart]"), {
  bars: () =>
    days.map((day, index) => ({
      lower: day.failed,
      upper: day.ok,
      label: day.label,
      unfinished: index === days.length - 1,
    })),
  hatched: true,
  least: 1,
  labelWidth: 84,
  read,
  open: index => location.assign(days[index].requests),
});
function showDays() {
  days = readDays();
  drawDays();
}
const table = $("[data-days-table]");
table.open = false; // without scripts it stands in for the chart
table.classList.add("ready");

/* ---- figures: counts come from the stream at once; the server renders the rest a moment later */
function followFigures(before) {
  $$("[data-value]").forEach(element => set(element, count(live[element.dataset.value])));
  set($("[data-success]"), rate(live.successful_requests, live.total_requests));
  const changed = name => before[name] !== undefined && before[name] !== live[name];
  if (changed("operator_state") || changed("drain_until")) return refresh({ head: true });
  if (
    [
      "status",
      "last_error",
      "model_count",
      "latency_ms",
      "total_requests",
      "cancelled_requests",
    ].some(changed)
  )
    refreshSoon();
  const [ok, failed] = ["successful_requests", "failed_requests"].map(name =>
    before[name] === undefined ? 0 : live[name] - before[name],
  );
  if (ok || failed) countToday(ok, failed);
}

function countToday(ok, failed) {
  const row = $("[data-day]");
  row.dataset.ok = Number(row.dataset.ok) + ok;
  row.dataset.failed = Number(row.dataset.failed) + failed;
  const [good, bad] = [Number(row.dataset.ok), Number(row.dataset.failed)];
  set($("[data-today=total]"), count(good + bad));
  set($("[data-today=failed]"), count(bad));
  const texts = [count(good + bad), count(good), count(bad), rate(good, good + bad)];
  [...row.children].slice(1).forEach((cell, at) => set(cell, texts[at]));
  showDays();
}

const INTERVAL = 10000; // ms
let refreshed = Date.now();
let timer = 0;
function refreshSoon() {
  if (!timer) timer = setTimeout(() => refresh(), Math.max(0, refreshed + INTERVAL - Date.now()));
}

async function refresh({ head = false } = {}) {
  clearTimeout(timer);
  timer = 0;
  refreshed = Date.now();
  if (document.hidden) return; // until the page is visible again
  const part = await fetchPart(location.href);
  if (part) show(part.content, head);
}
document.addEventListener("visibilitychange", () => !document.hidden && refresh());
setInterval(() => Date.now() - refreshed > 60000 && refresh(), 5000); // a new day may have begun

function show(content, head) {
  swapParts(content, { [head ? "always" : "except"]: ["head"] });
  showDays();
  if (live.status) showState();
}

/* ---- buttons: the message of the admin appears on this page */
async function act(form, button) {
  const body = new FormData(form, button);
  button.setAttribute("aria-busy", "true");
  const url = form.getAttribute("action"); // `form.action` is a button of this name
  const response = await fetch(url, { method: "POST", body }).catch(() => null);
  button.removeAttribute("aria-busy");
  if (!response?.ok || !new URL(response.url).pathname.endsWith(id)) return location.reload(); // such as the login page
  const template = document.createElement("template");
  template.innerHTML = await response.text();
  const messages = $(".messages", template.content);
  show(template.content, true);
  messages?.removeAttribute("role"); // the element around it has this role
  $("[data-messages]").replaceChildren(...(messages ? [messages] : []));
  if (document.activeElement !== document.body) return;
  const same = $(`[data-act] [value="${button.value}"]`);
  const menu = same?.closest("[data-menu]");
  const again = menu ? $("summary", menu) : same;
  (again && !menu?.hidden ? again : $("[data-act] button"))?.focus();
}
panel.addEventListener("submit", event => {
  if (!event.target.matches("[data-act]")) return;
  event.preventDefault();
  act(event.target, event.submitter);
});
document.addEventListener("keydown", event => {
  const menu = $("[data-menu][open]");
  if (event.key !== "Escape" || !menu) return;
  menu.open = false;
  $("summary", menu).focus();
});
document.addEventListener("click", event => {
  const menu = $("[data-menu][open]");
  if (menu && !menu.contains(event.target)) menu.open = false;
});

/* ---- requests in flight at this endpoint */
const SHOWN = 12;
const running = $("[data-running]");
function rowOf(request) {
  const row = fromTemplate("[data-running-row]");
  const age = Math.max(0, request.age_ms) / 1000; // by the server's clock alone: two clocks may differ
  const texts = {
    model: request.model,
    key: request.api_key_name ?? NOTHING,
    tokens: request.streamed ? count(request.deltas) : NOTHING,
    age: age < 60 ? duration(age * 1000) : span(age),
  };
  for (const cell of row.cells) set(cell, texts[cell.dataset.cell]);
  return row;
}
function noteRow(text) {
  const row = fromTemplate("[data-running-note]");
  set(row.cells[0], text);
  return row;
}
async function showRunning() {
  if (!document.hidden) {
    const response = await fetch("/api/live").catch(() => null);
    const data = response?.ok ? await response.json() : null;
    const here = data?.running.filter(request => request.endpoint_id === id) ?? [];
    const isComplete = data && data.workers_told === data.workers && !data.running_is_cut;
    const rows = here.slice(0, SHOWN).map(rowOf);
    if (!isComplete && !here.length) rows.push(noteRow(running.dataset.unread));
    else if (!here.length) rows.push(noteRow(running.dataset.none));
    else if (here.length > SHOWN)
      rows.push(
        noteRow(
          running.dataset.more
            .replace("{shown}", count(SHOWN))
            .replace("{all}", count(Math.max(here.length, live.active_requests ?? 0))),
        ),
      );
    running.tBodies[0].replaceChildren(...rows);
    set($("[data-running-count]"), isComplete ? count(here.length) : "");
  }
  setTimeout(showRunning, 2000);
}
showRunning();

followEndpoint(id, followFigures);
