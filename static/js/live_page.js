/* The requests that are here: asked for every second while the page is seen, rows kept in place, cancelled by hand. */
(() => {
  "use strict";
  const { $, $$, set, count, speed, duration, clock, sign, token, NOTHING } = window.RouterDash;
  const EVERY_MS = 1000;
  const ASK_MS = 5000; // in which the second press has to come
  const STALE_MS = 5000;

  const words = Object.fromEntries($$("[data-word]", $("[data-words]").content).map(it => [it.dataset.word, it.textContent]));
  const phases = Object.fromEntries($$("[data-phase]", $("[data-phases]").content).map(it => [it.dataset.phase, it.textContent]));
  const [runningRow, waitingRow] = $("[data-rows]").content.children;

  /* ---- rows */
  const tokensPerSecond = it => {
    const seconds = (it.age_ms - it.first_token_ms) / 1000;
    return it.streamed && it.first_token_ms != null && it.deltas > 1 && seconds > 0.2 ? it.deltas / seconds : null;
  };
  const texts = it => ({
    model: it.model,
    kind: it.kind,
    phase: phases[it.phase],
    place: count(it.position),
    age: it.age_ms < 1000 ? duration(it.age_ms) : `${(it.age_ms / 1000).toFixed(1)} s`,
    key: it.api_key_name ?? NOTHING,
    client: it.client_ip ?? "",
    endpoint: it.endpoint_name ?? NOTHING,
    tokens: it.streamed ? count(it.deltas) : NOTHING,
    speed: speed(tokensPerSecond(it)),
  });

  /** Screen readers hear of which request a button is. */
  function write(button, text, model) {
    button.textContent = text;
    button.setAttribute("aria-label", `${text} ${model}`);
  }
  const modelOf = button => $("[data-cell=model]", button.closest("[data-request]")).textContent;

  function fill(row, it) {
    const told = texts(it);
    $$("[data-cell]", row).forEach(cell => set(cell, told[cell.dataset.cell]));
    const link = $("a[data-cell=endpoint]", row);
    if (link && it.endpoint_id) link.setAttribute("href", `/endpoints/${it.endpoint_id}`);
    const button = $("[data-cancel]", row);
    if (button) write(button, button.textContent, it.model);
  }

  /** Keys go on from the head of its table, not from another row's button: one meant for this would press that. */
  function leave(element) {
    if (element.contains(document.activeElement)) $("h2", element.closest("[data-kind]")).focus();
  }

  function show(kind, form, told) {
    const whole = told.workers_told === told.workers; // else nobody knows how many there are
    const [rows, total] = [told[kind], whole ? told[`${kind}_total`] : null];
    const panel = $(`[data-kind=${kind}]`);
    const body = $("[data-live]", panel);
    const known = new Map([...body.children].map(row => [row.dataset.request, row]));
    const here = new Set(rows.map(it => it.id));
    for (const [id, row] of known) {
      if (here.has(id)) continue;
      leave(row);
      row.remove();
    }
    let before = null;
    for (const it of rows) {
      let row = known.get(it.id);
      if (!row) {
        row = form.cloneNode(true);
        row.dataset.request = it.id;
      }
      fill(row, it);
      const next = before ? before.nextElementSibling : body.firstElementChild;
      if (next !== row) body.insertBefore(row, next);
      before = row;
    }
    set($("[data-total]", panel), count(total));
    $("[data-none]", panel).hidden = rows.length > 0 || !whole;
    $("[data-more]", panel).hidden = !told[`${kind}_is_cut`];
  }

  /* ---- asking */
  let heard = 0;
  async function look() {
    try {
      const answer = await fetch("/api/live", { headers: { Accept: "application/json" } });
      if (answer.status === 401 || answer.status === 403) return location.reload();
      if (!answer.ok) throw new Error(String(answer.status));
      const told = await answer.json();
      show("running", runningRow, told);
      show("waiting", waitingRow, told);
      $("[data-told]").hidden = told.workers_told === told.workers;
      set($("[data-clock]"), clock.format(new Date(told.at)));
      heard = Date.now();
      sign("live");
    } catch {
      sign(Date.now() - heard > STALE_MS ? "stale" : "reconnecting");
    }
  }
  let timer = 0;
  async function round() {
    clearTimeout(timer);
    if (document.hidden) return;
    await look();
    clearTimeout(timer);
    timer = setTimeout(round, EVERY_MS);
  }
  document.addEventListener("visibilitychange", round);
  round();

  /* ---- cancelling: the first press asks, the second does it */
  const say = text => set($("[data-say]"), text);
  function rest(button) {
    button.classList.remove("btn-sure");
    write(button, words.cancel, modelOf(button));
  }
  function ask(button) {
    button.classList.add("btn-sure");
    write(button, words.sure, modelOf(button));
    say(button.getAttribute("aria-label"));
    setTimeout(() => button.disabled || rest(button), ASK_MS);
  }
  async function cancel(button) {
    const id = button.closest("[data-request]").dataset.request;
    leave(button);
    button.disabled = true;
    button.classList.remove("btn-sure");
    write(button, words.going, modelOf(button));
    const answer = await fetch(`/api/live/${id}/cancel`, { method: "POST", headers: { "X-CSRFToken": token() } }).catch(() => null);
    say(answer?.status === 202 ? words.done : answer?.status === 404 ? words.gone : words.failed);
    if (answer?.status !== 202 && answer?.status !== 404) {
      button.disabled = false;
      rest(button);
    }
  }
  document.addEventListener("click", event => {
    const button = event.target.closest("[data-cancel]");
    if (button) (button.classList.contains("btn-sure") ? cancel : ask)(button);
  });
})();
