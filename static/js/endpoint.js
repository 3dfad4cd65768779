/* One endpoint's pages, the admin's too: its status, its requests in flight and its deadline follow by themselves. */
(() => {
  "use strict";
  const { $, set, forms, number, span, follow } = window.RouterDash;
  const id = $("[data-live-endpoint]")?.dataset.liveEndpoint;
  if (!id) return;

  const drain = $("[data-drain]");
  let ahead = 0; // of this clock, the server's
  function countDown() {
    const until = drain.dataset.drain;
    const left = Math.max(0, (Date.parse(until) - Date.now() - ahead) / 1000);
    const { open, timed, over } = drain.dataset;
    set(drain, !until ? open : left > 0 ? timed.replace("{time}", span(left)) : over);
  }

  const statuses = forms("[data-statuses]", it => it.className.replace("st st-", ""));
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
  function hear(told) {
    ahead = Date.parse(told.generated_at) - Date.now();
    return told.endpoints ?? [];
  }
  follow({
    overview(told) {
      const found = hear(told).find(it => it.id === id);
      if (found) show(found);
    },
    changes(told) {
      const found = hear(told)[id];
      if (found && live.status) show(found);
    },
  });
})();
