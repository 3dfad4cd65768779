/** Status, circuit breaker, pause and latency of an endpoint, in a table's row or on a page of its own. */

import { $, set, setUnits, templateChildren } from "./dom.js";
import { clock, count, NOTHING } from "./format.js";
import { age } from "./live.js";

const statuses = templateChildren("[data-statuses]", child =>
  child.className.replace("st st-", ""),
);
const breakers = templateChildren("[data-breakers]", child => child.dataset.breaker);
const pauses = templateChildren("[data-pauses]", child => child.dataset.pause);

/** Return the name of the status that pages show: the measured status, or the administrative state unless it is enabled. */
export const shownStatus = endpoint =>
  endpoint.operator_state === "enabled" ? endpoint.status : endpoint.operator_state;

/** Replace the status, the breaker and the pause inside `place` where they differ from the endpoint's. */
export function showStatus(place, endpoint) {
  const name = shownStatus(endpoint);
  const status = $("[data-status]", place);
  if (status && statuses[name] && !status.classList.contains(`st-${name}`))
    status.replaceWith(statuses[name].cloneNode(true));
  const breaker = $("[data-breaker]", place);
  if (breaker && breakers[endpoint.breaker] && breaker.dataset.breaker !== endpoint.breaker)
    breaker.replaceWith(breakers[endpoint.breaker].cloneNode(true));
  if (endpoint.lacks) showSetAside(place, endpoint);
}

function showSetAside(place, { pause_cause: cause, paused_until: until, lacks }) {
  let pause = $("[data-pause]", place);
  if (pause && pauses[cause ?? ""] && pause.dataset.pause !== (cause ?? "")) {
    const other = pauses[cause ?? ""].cloneNode(true);
    pause.replaceWith(other);
    pause = other;
  }
  if (pause && until) set($("time", pause), clock.format(new Date(until)));
  const lacking = $("[data-lacks]", place);
  if (!lacking) return;
  lacking.hidden = lacks.length === 0;
  set($("code", lacking), lacks.join(", "));
}

/** Write the latency of an endpoint into the element of `{% latency %}`, with its age while the endpoint is offline. */
export function showLatency(cell, endpoint) {
  const value = endpoint.latency_ms;
  const old = endpoint.status === "offline" && value != null;
  cell.classList.toggle("stale", old);
  cell.classList.toggle("muted", value == null);
  const [figure, note] = cell.children;
  setUnits(figure, value == null ? NOTHING : `${count(value)} ms`);
  const time = $("[data-age]", note);
  note.hidden = !old;
  if (!old) {
    cell.removeAttribute("title");
    time.dataset.age = "";
    return set(time, "");
  }
  if (!endpoint.last_seen || time.dataset.age === endpoint.last_seen) return;
  cell.title = endpoint.last_seen;
  time.dataset.age = endpoint.last_seen;
  set(time, age(endpoint.last_seen));
}
