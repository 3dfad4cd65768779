/* The models' pages: filters apply as they are chosen; parts that changed are taken from the server's own page. */
(() => {
  "use strict";
  const { $$, follow } = window.RouterDash;

  /* ---- filters: a choice is a new address; typing waits for Enter */
  $$("[data-filters]").forEach(form =>
    form.addEventListener("change", event => {
      if (event.target.matches("select")) form.requestSubmit();
    }),
  );
  // empty fields say nothing in an address
  $$("[data-filters]").forEach(form =>
    form.addEventListener("submit", () => $$("input, select", form).forEach(it => (it.disabled = !it.value))),
  );
  window.addEventListener("pageshow", () => $$("[data-filters] :disabled").forEach(it => (it.disabled = false)));

  /* ---- keeping up: every few seconds at most, and only when something has happened */
  const LEAST_MS = 3000;
  const parts = from => new Map($$("[data-part]", from).map(it => [it.dataset.part, it]));
  const order = from => $$("[data-rows]", from).map(rows => $$("[data-part]", rows).map(it => it.dataset.part).join("\n"));

  function take(fresh) {
    const [list, other] = [document, fresh].map(it => it.querySelector("[data-list]"));
    if (list && other && list.dataset.list !== other.dataset.list) list.replaceWith(document.importNode(other, true));
    const [mine, theirs] = [order(document), order(fresh)];
    const bodies = $$("[data-rows]", fresh);
    $$("[data-rows]").forEach((rows, at) => {
      if (mine[at] !== theirs[at] && bodies[at] && !rows.contains(document.activeElement)) rows.replaceWith(document.importNode(bodies[at], true));
    });
    const news = parts(fresh);
    for (const [name, part] of parts(document)) {
      const other = news.get(name);
      if (!other || other.isEqualNode(part) || part.contains(document.activeElement)) continue;
      part.replaceChildren(...[...document.importNode(other, true).childNodes]);
    }
  }

  let [asking, due, askedAt] = [false, false, 0];
  async function refresh() {
    if (asking || document.hidden) return void (due = true);
    [asking, due, askedAt] = [true, false, Date.now()];
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (answer.redirected) location.reload();
      else if (answer.ok) take(new DOMParser().parseFromString(await answer.text(), "text/html"));
    } catch {
      due = true; // the server is away for a moment: with the next event
    }
    asking = false;
  }
  function soon() {
    if (due) return;
    due = true;
    setTimeout(refresh, Math.max(0, LEAST_MS - (Date.now() - askedAt)));
  }
  document.addEventListener("visibilitychange", () => due && !document.hidden && refresh());
  follow({ overview: soon, changes: soon });
})();
