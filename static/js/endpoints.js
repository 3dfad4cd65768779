/* The list of endpoints: choosing many, filters without a reload, and figures that follow by themselves. */
(() => {
  "use strict";
  const { $, $$, set, forms, count, speed, follow, showLatency } = window.RouterDash;
  const filters = $("#filters");

  // Whoever goes back gets that page anew: nothing of it is kept beside the address.
  if (window.htmx) htmx.config.refreshOnHistoryMiss = true;

  /* ---- the address says what is chosen, not what is not */
  document.addEventListener("htmx:configRequest", event => {
    const given = event.detail.parameters;
    const idle = name => !given.get(name) || (name === "sort" && given.get(name) === "status");
    [...given.keys()].filter(idle).forEach(name => given.delete(name));
    if (event.detail.elt === filters && `?${new URLSearchParams(given)}` === (location.search || "?")) event.preventDefault();
  });

  /* ---- choosing */
  const boxes = () => $$("[data-list] input[name=endpoint]");
  function showChosen() {
    const number = boxes().filter(box => box.checked).length;
    const told = $("[data-chosen]");
    if (!told) return;
    set(told, number ? told.dataset.some.replace("{number}", count(number)) : told.dataset.none);
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
      const [from, to] = [boxes().indexOf(last), boxes().indexOf(box)].sort((one, other) => one - other);
      boxes().slice(from, to + 1).forEach(it => (it.checked = box.checked));
    }
    last = box;
    showChosen();
  });
  document.addEventListener("change", event => {
    if (event.target.matches("[data-choose-all]")) boxes().forEach(box => (box.checked = event.target.checked));
    showChosen();
  });

  /* ---- the table anew, unless somebody is choosing in it */
  const refresh = () => {
    if (!boxes().some(box => box.checked)) htmx.ajax("GET", location.pathname + location.search, "#list");
  };

  /* ---- figures */
  const statuses = forms("[data-statuses]", it => it.className.replace("st st-", ""));
  const breakers = forms("[data-breakers]", it => it.dataset.breaker);
  let rows = new Map();
  const live = new Map(); // by id, what was told of each

  function findRows() {
    rows = new Map($$("[data-endpoint]").map(row => [row.dataset.endpoint, row]));
    live.forEach(show);
    showChosen();
  }

  function show(told) {
    const row = rows.get(told.id);
    if (!row) return;
    $$("[data-value]", row).forEach(cell => set(cell, count(told[cell.dataset.value])));
    const name = told.operator_state === "enabled" ? told.status : told.operator_state;
    const status = $("[data-status]", row);
    if (statuses[name] && !status.classList.contains(`st-${name}`)) status.replaceWith(statuses[name].cloneNode(true));
    const breaker = $("[data-breaker]", row);
    if (breaker.dataset.breaker !== told.breaker) breaker.replaceWith(breakers[told.breaker].cloneNode(true));
    set($("[data-speed]", row), speed(told.tokens_per_second));
    set($("[data-error]", row), told.last_error ?? "");
    showLatency($("[data-latency]", row), told);
  }

  const shownState = told => (told.operator_state === "enabled" ? told.status : told.operator_state);

  function showAll(told) {
    const known = live.size;
    const same = told.endpoints.length === known && told.endpoints.every(it => live.has(it.id));
    live.clear();
    told.endpoints.forEach(it => live.set(it.id, it));
    live.forEach(show);
    if (known && !same) refresh(); // endpoints came or went: rows are the server's work
  }

  function showChanges(part) {
    let moved = false;
    for (const [id, changed] of Object.entries(part.endpoints ?? {})) {
      const told = live.get(id);
      if (!told) continue;
      const before = shownState(told);
      Object.assign(told, changed);
      moved ||= before !== shownState(told);
      show(told);
    }
    if (moved && filters.elements.status.value) refresh();
  }

  document.addEventListener("htmx:afterSwap", () => {
    findRows();
    filters.elements.sort.value = $("[data-list]").dataset.list; // a press on a head has sorted it
  });
  findRows();
  follow({ overview: showAll, changes: showChanges });
})();
