/** Pages of models: filters apply when they are selected, and parts that changed come from the server. */

import { $$ } from "./dom.js";
import { follow } from "./live.js";
import { fetchPart, swapParts } from "./parts.js";
import { throttle } from "./throttle.js";

/* ---- filters: a selection opens its address at once; a text does with Enter */
$$("[data-filters]").forEach(form =>
  form.addEventListener("change", event => {
    if (event.target.matches("select")) form.requestSubmit();
  }),
);
// Empty fields are left out of the address.
$$("[data-filters]").forEach(form =>
  form.addEventListener("submit", () =>
    $$("input, select", form).forEach(field => (field.disabled = !field.value)),
  ),
);
window.addEventListener("pageshow", () =>
  $$("[data-filters] :disabled").forEach(field => (field.disabled = false)),
);

/* ---- refresh after events, every few seconds at most */
const INTERVAL_MS = 3000;
async function refresh() {
  const part = await fetchPart(location.href);
  if (part) swapParts(part.content);
  return Boolean(part);
}
const { request, resume } = throttle(refresh, INTERVAL_MS, () => document.hidden);
document.addEventListener("visibilitychange", resume);
follow({ overview: request, changes: request });
