/** First run: the model that the snippets name, the steps that are done, and the change to the overview. */

import { $, $$, set } from "./dom.js";
import { follow, OVERVIEW } from "./live.js";

const steps = $("[data-first-run]");
let model = "";
let before = null; // requests before this page was opened, of endpoints that were deleted

function markDone(name) {
  const number = $(`[data-step=${name}]`, steps);
  if (number) number.classList.add("done");
}

/* Names that need no escaping in any of the languages; the server escapes all others when it renders a snippet. */
const PLAIN = /^[\w.:/@+-]+$/;
const isChatModel = model =>
  model.capabilities.some(word => /^(chat|completion|llm|vlm)/.test(word));
const showModel = () =>
  model && $$("[data-snippet-model]", steps).forEach(element => set(element, model));

async function findModel(id) {
  const response = await fetch(`/api/endpoints/${id}/models`).catch(() => null);
  if (!response?.ok || model) return;
  const { models } = await response.json();
  const found = (models.find(isChatModel) ?? models[0])?.model_id ?? "";
  if (PLAIN.test(found)) model = found;
  showModel();
}

function update({ stats, endpoints }) {
  before ??= stats.total_requests;
  if (stats.total_requests > before) return location.assign("/");
  if (endpoints.length && steps.dataset.firstRun === "viewer") return location.reload();
  if (endpoints.length) markDone("server");
  const ready = endpoints.find(endpoint => endpoint.model_count > 0);
  if (ready && !model) findModel(ready.id);
}

let live = null;
follow(
  {
    overview(event) {
      live = event;
      update(live);
    },
    changes(part) {
      if (!live) return;
      Object.assign(live.stats, part.stats);
      const known = new Map(live.endpoints.map(endpoint => [endpoint.id, endpoint]));
      for (const [id, changed] of Object.entries(part.endpoints ?? {}))
        known.set(id, Object.assign(known.get(id) ?? {}, changed));
      live.endpoints = (part.shown ?? [...known.keys()]).map(id => known.get(id));
      update(live);
    },
  },
  OVERVIEW,
);
document.addEventListener("part:swapped", showModel);
