/* One endpoint's pages, the admin's too: its status, its requests in flight and its deadline follow by themselves. */
(() => {
  "use strict";
  const $ = selector => document.querySelector(selector);
  const id = $("[data-live-endpoint]")?.dataset.liveEndpoint;
  if (!id) return;
  const lang = document.documentElement.lang === "en" ? "en-US" : document.documentElement.lang;
  const number = value => new Intl.NumberFormat(lang).format(value);
  const set = (element, text) => {
    if (element && element.textContent !== text) element.textContent = text;
  };

  /* As metrics/templatetags/figures.py writes it. */
  function span(seconds) {
    const [size, unit] = [[3600, "h"], [60, "min"]].find(([size]) => seconds >= 2 * size) ?? [1, "s"];
    return `${number(Math.floor(seconds / size))} ${unit}`;
  }

  const drain = $("[data-drain]");
  let ahead = 0; // of this clock, the server's
  function countDown() {
    const until = drain.dataset.drain;
    const left = Math.max(0, (Date.parse(until) - Date.now() - ahead) / 1000);
    const { open, timed, over } = drain.dataset;
    set(drain, !until ? open : left > 0 ? timed.replace("{time}", span(left)) : over);
  }

  const statuses = Object.fromEntries(
    [...($("[data-statuses]")?.content.children ?? [])].map(it => [it.className.replace("st st-", ""), it]),
  );
  const live = {};
  const rendered = $("[data-live-endpoint]").dataset.liveState; // none in the admin, whose form may be half filled in
  function show(changed) {
    // the buttons of another state are the server's work
    if (rendered && rendered !== (changed.operator_state ?? rendered)) return location.reload();
    Object.assign(live, changed);
    set($("[data-in-flight]"), number(live.active_requests));
    const name = live.operator_state === "enabled" ? live.status : live.operator_state;
    const status = $("[data-status]");
    if (status && statuses[name] && !status.classList.contains(`st-${name}`)) status.replaceWith(statuses[name].cloneNode(true));
    drain.hidden = live.operator_state !== "draining";
    drain.dataset.drain = live.drain_until ?? "";
    countDown();
  }

  countDown();
  setInterval(countDown, 1000);
  const source = new EventSource("/api/dashboard/events");
  function hear(event) {
    const told = JSON.parse(event.data);
    ahead = Date.parse(told.generated_at) - Date.now();
    return told.endpoints ?? [];
  }
  source.addEventListener("overview", event => {
    const found = hear(event).find(it => it.id === id);
    if (found) show(found);
  });
  source.addEventListener("changes", event => {
    const found = hear(event)[id];
    if (found && live.status) show(found);
  });
})();
