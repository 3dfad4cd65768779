/** State of one endpoint on its page and on its form in the admin: status, requests in flight, deadline of a drain. */

import { $, $$, set } from "./dom.js";
import { showStatus } from "./endpoint_status.js";
import { number, span } from "./format.js";
import { follow } from "./live.js";

/** The endpoint's figures of all events so far. */
export const live = {};
let ahead = 0; // ms that the server's clock is ahead of this one

function countDown() {
  const drain = $("[data-drain]");
  const until = drain.dataset.drain;
  const left = Math.max(0, (Date.parse(until) - Date.now() - ahead) / 1000);
  const { open, timed, over } = drain.dataset;
  set(drain, !until ? open : left > 0 ? timed.replace("{time}", span(left)) : over);
  const bar = $("[data-drain-since]");
  if (!bar || !until) return;
  const whole = (Date.parse(until) - Date.parse(bar.dataset.drainSince)) / 1000;
  const percent = Math.min(100, (100 * left) / Math.max(1, whole));
  bar.lastElementChild.setAttribute("width", `${percent.toFixed(2)}%`);
}

/** Write the state into the page. */
export function showState() {
  $$("[data-in-flight], [data-in-flight-too]").forEach(element =>
    set(element, number(live.active_requests)),
  );
  // The page of an endpoint has more statuses below its head; the form in the admin has only one.
  showStatus($("[data-part=head]") ?? document, live);
  const reset = $("[data-reset]");
  if (reset && live.breaker) reset.hidden = live.breaker === "closed" && !live.paused_until;
  const drain = $("[data-drain]");
  drain.hidden = live.operator_state !== "draining";
  drain.dataset.drain = live.drain_until ?? "";
  countDown();
}

/** Keep the state of this page's endpoint up to date; `changed(before)` runs with the figures before each event. */
export function followEndpoint(id, changed = () => {}) {
  function show(figures) {
    const before = { ...live };
    Object.assign(live, figures);
    showState();
    changed(before);
  }
  function endpoints(event) {
    ahead = Date.parse(event.generated_at) - Date.now();
    return event.endpoints ?? [];
  }
  countDown();
  setInterval(countDown, 1000);
  follow(
    {
      overview(event) {
        const figures = endpoints(event).find(endpoint => endpoint.id === id);
        if (figures) show(figures);
      },
      changes(event) {
        const figures = endpoints(event)[id];
        if (figures && live.status) show(figures);
      },
    },
    [id],
  );
}
