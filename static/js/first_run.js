/* The first minute: which model the snippets name, which steps are done, and when this page becomes the overview. */
(() => {
  "use strict";
  const { $, $$, set, follow } = window.RouterDash;
  const steps = $("[data-first-run]");
  let model = "";
  let before = null; // requests counted when this page was opened: of endpoints that were deleted since

  function done(name) {
    const number = $(`[data-step=${name}]`, steps);
    if (number) number.classList.add("done");
  }

  /* Names that need no escaping in any of the languages; the server escapes all others when it renders a snippet. */
  const plain = /^[\w.:/@+-]+$/;
  const chats = it => it.capabilities.some(word => /^(chat|completion|llm|vlm)/.test(word));
  const showModel = () => model && $$("[data-snippet-model]", steps).forEach(it => set(it, model));

  async function findModel(id) {
    const answer = await fetch(`/api/endpoints/${id}/models`).catch(() => null);
    if (!answer?.ok || model) return;
    const { models } = await answer.json();
    const found = (models.find(chats) ?? models[0])?.model_id ?? "";
    if (plain.test(found)) model = found;
    showModel();
  }

  function look(told) {
    before ??= told.stats.total_requests;
    if (told.stats.total_requests > before) return location.assign("/");
    if (told.endpoints.length && steps.dataset.firstRun === "viewer") return location.reload();
    if (told.endpoints.length) done("server");
    const ready = told.endpoints.find(it => it.model_count > 0);
    if (ready && !model) findModel(ready.id);
  }

  let live = null;
  follow({
    overview(told) {
      live = told;
      look(live);
    },
    changes(part) {
      if (!live) return;
      Object.assign(live.stats, part.stats);
      live.endpoints.forEach(it => Object.assign(it, part.endpoints?.[it.id]));
      look(live);
    },
  });
  document.addEventListener("htmx:afterSwap", showModel);
})();
