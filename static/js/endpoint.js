/* One endpoint's pages, the admin's too: its status, its requests in flight and its deadline follow by themselves.
 * The dashboard's page also follows its figures, and does what its buttons say without leaving it.
 */
(() => {
  "use strict";
  const { $, $$, set, forms, number, count, duration, span, rate, follow, NOTHING } = window.RouterDash;
  const panel = $("[data-live-endpoint]");
  if (!panel) return;
  const id = panel.dataset.liveEndpoint;
  const page = "liveState" in panel.dataset; // the dashboard's; the admin's form may be half filled in

  /* ---- the deadline of a drain */
  let ahead = 0; // of this clock, the server's
  const now = () => Date.now() + ahead;
  function countDown() {
    const drain = $("[data-drain]");
    const until = drain.dataset.drain;
    const left = Math.max(0, (Date.parse(until) - now()) / 1000);
    const { open, timed, over } = drain.dataset;
    set(drain, !until ? open : left > 0 ? timed.replace("{time}", span(left)) : over);
    const bar = $("[data-drain-since]");
    if (bar && until) {
      const whole = (Date.parse(until) - Date.parse(bar.dataset.drainSince)) / 1000;
      $(".f", bar).setAttribute("width", `${Math.min(100, (100 * left) / Math.max(1, whole)).toFixed(2)}%`);
    }
  }

  /* ---- what the stream tells */
  const statuses = forms("[data-statuses]", it => it.className.replace("st st-", ""));
  const breakers = forms("[data-breakers]", it => it.dataset.breaker);
  const live = {};

  function showNow() {
    $$("[data-in-flight], [data-in-flight-too]").forEach(it => set(it, number(live.active_requests)));
    const name = live.operator_state === "enabled" ? live.status : live.operator_state;
    const status = $("[data-status]");
    if (status && statuses[name] && !status.classList.contains(`st-${name}`)) status.replaceWith(statuses[name].cloneNode(true));
    const breaker = $("[data-breaker]");
    if (breaker && breakers[live.breaker] && breaker.dataset.breaker !== live.breaker) breaker.replaceWith(breakers[live.breaker].cloneNode(true));
    const reset = $("[data-reset]");
    if (reset && live.breaker) reset.hidden = live.breaker === "closed";
    const drain = $("[data-drain]");
    drain.hidden = live.operator_state !== "draining";
    drain.dataset.drain = live.drain_until ?? "";
    countDown();
  }

  function show(changed) {
    const before = { ...live };
    Object.assign(live, changed);
    showNow();
    if (page) followFigures(before);
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
  if (!page) return;

  /* ---- days: failures on the baseline, hatched, successes on top of them */
  const { colour, hatch } = window.RouterDash; // which the admin, without a chart, does not load
  const chart = $("[data-chart]");
  let days = []; // oldest first
  let plot = null;
  const readDays = () =>
    $$("[data-day]").reverse().map(row => ({
      at: Date.parse(`${row.dataset.day}T00:00:00Z`) / 1000, // a place on the axis, no moment
      label: row.dataset.label,
      ok: Number(row.dataset.ok),
      failed: Number(row.dataset.failed),
      requests: $("a", row).href,
    }));
  const totals = () => days.map(day => day.ok + day.failed);
  const top = () => Math.max(4, ...totals()) * 1.08;
  const size = () => ({ width: Math.max(200, chart.clientWidth), height: Math.max(120, chart.clientHeight) });
  const series = () => {
    const pixel = top() / Math.max(60, chart.clientHeight - 40);
    return [days.map(day => day.at), totals(), days.map(day => (day.failed ? Math.max(day.failed, pixel) : null))];
  };
  const apart = () => Math.max(1, Math.ceil(days.length / Math.max(2, Math.floor(chart.clientWidth / 84))));
  const named = () => days.filter((_, at) => (days.length - 1 - at) % apart() === 0).map(day => day.at);
  const label = at => days.find(day => day.at === at)?.label ?? "";

  function readout(day) {
    const box = $("[data-readout]");
    const sum = name => days.reduce((total, it) => total + it[name], 0);
    const [ok, failed] = day ? [day.ok, day.failed] : [sum("ok"), sum("failed")];
    const ends = [days[0].label, days[days.length - 1].label];
    set($("[data-read=day]", box), day ? day.label : [...new Set(ends)].join("–"));
    set($("[data-read=ok]", box), count(ok));
    set($("[data-read=failed]", box), count(failed));
    set($("[data-read=rate]", box), rate(ok, ok + failed));
  }
  const pointed = () => (plot?.cursor.idx == null ? null : days[plot.cursor.idx]);

  function draw() {
    plot?.destroy();
    const ink = colour("--ink-3");
    const font = `11px ${getComputedStyle(document.body).fontFamily}`;
    const [whole, part] = [colour("--c-ok"), colour("--c-ok-soft")];
    const fills = () => days.map((_, at) => (at === days.length - 1 ? part : whole)); // today is not over
    plot = new uPlot(
      {
        ...size(),
        padding: [4, 18, 0, 0],
        legend: { show: false },
        tzDate: seconds => uPlot.tzDate(new Date(seconds * 1000), "UTC"),
        cursor: { x: true, y: false, points: { show: false }, drag: { x: false, y: false } },
        scales: { x: { range: (_, low, high) => [low - 52000, high + 52000] }, y: { range: () => [0, top()] } },
        axes: [
          { stroke: ink, font, grid: { show: false }, ticks: { show: false }, size: 24, gap: 4, splits: named, values: (_, at) => at.map(label) },
          { stroke: ink, font, grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false }, size: 52, gap: 6, space: 44, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6, 2e6, 5e6, 1e7], values: (_, at) => at.map(n => number(n)) },
        ],
        series: [
          {},
          { fill: whole, width: 0, points: { show: false }, paths: uPlot.paths.bars({ size: [0.7, 40], disp: { fill: { unit: 3, values: fills } } }) },
          { fill: hatch, stroke: colour("--surface"), width: 1, points: { show: false }, paths: uPlot.paths.bars({ size: [0.7, 40] }) },
        ],
        hooks: {
          setCursor: [() => readout(pointed())],
          ready: [it => it.over.addEventListener("click", () => pointed() && location.assign(pointed().requests))],
        },
      },
      series(),
      chart,
    );
  }
  function showDays() {
    days = readDays();
    if (plot) plot.setData(series());
    else draw();
    readout(pointed());
  }
  const table = $("[data-days-table]");
  table.open = false; // without a script it stands in for the chart
  table.classList.add("ready");
  document.addEventListener("themechange", draw); // a canvas does not follow the theme by itself
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  new ResizeObserver(() => {
    if (plot && plot.width !== size().width) plot.setSize(size());
  }).observe(chart);
  showDays();

  /* ---- figures: counts at once, from the stream; the rest as the server renders it, a moment later */
  function followFigures(before) {
    $$("[data-value]").forEach(it => set(it, count(live[it.dataset.value])));
    set($("[data-success]"), rate(live.successful_requests, live.total_requests));
    const changed = name => before[name] !== undefined && before[name] !== live[name];
    if (changed("operator_state") || changed("drain_until")) return refresh({ head: true });
    if (["status", "last_error", "model_count", "latency_ms", "total_requests", "cancelled_requests"].some(changed)) refreshSoon();
    const [ok, failed] = ["successful_requests", "failed_requests"].map(name => (before[name] === undefined ? 0 : live[name] - before[name]));
    if (ok || failed) countToday(ok, failed);
  }

  function countToday(ok, failed) {
    const row = $("[data-day]");
    row.dataset.ok = Number(row.dataset.ok) + ok;
    row.dataset.failed = Number(row.dataset.failed) + failed;
    const [good, bad] = [Number(row.dataset.ok), Number(row.dataset.failed)];
    set($("[data-today=total]"), count(good + bad));
    set($("[data-today=failed]"), count(bad));
    const texts = [count(good + bad), count(good), count(bad), rate(good, good + bad)];
    [...row.children].slice(1).forEach((cell, at) => set(cell, texts[at]));
    showDays();
  }

  const EVERY = 10000;
  let refreshed = Date.now();
  let timer = 0;
  function refreshSoon() {
    if (!timer) timer = setTimeout(() => refresh(), Math.max(0, refreshed + EVERY - Date.now()));
  }

  /* This page anew, and of it the parts that differ. */
  async function refresh({ head = false } = {}) {
    clearTimeout(timer);
    timer = 0;
    refreshed = Date.now();
    if (document.hidden) return; // once it is looked at again
    const answer = await fetch(location.href).catch(() => null);
    if (answer?.ok && !answer.redirected) take(await answer.text(), head);
  }
  document.addEventListener("visibilitychange", () => !document.hidden && refresh());
  setInterval(() => Date.now() - refreshed > 60000 && refresh(), 5000); // a day may have begun

  function take(html, head) {
    const fresh = new DOMParser().parseFromString(html, "text/html");
    for (const part of $$("[data-part]")) {
      const name = part.dataset.part;
      const other = $(`[data-part="${name}"]`, fresh);
      if (!other || (name === "head" && !head) || (name !== "head" && part.contains(document.activeElement))) continue;
      if (other.innerHTML !== part.innerHTML) part.replaceChildren(...other.childNodes);
    }
    showDays();
    if (live.status) showNow();
    return fresh;
  }

  /* ---- buttons: what the admin would say on its own page is said here */
  async function act(form, button) {
    const body = new FormData(form, button);
    button.setAttribute("aria-busy", "true");
    const url = form.getAttribute("action"); // `form.action` is a button of this name
    const answer = await fetch(url, { method: "POST", body }).catch(() => null);
    button.removeAttribute("aria-busy");
    if (!answer?.ok || !new URL(answer.url).pathname.endsWith(id)) return location.reload(); // say, to log in
    const fresh = take(await answer.text(), true);
    const said = $(".said", fresh);
    said?.removeAttribute("role"); // it comes into an element that has it
    $("[data-answered]").replaceChildren(...(said ? [said] : []));
    if (document.activeElement !== document.body) return;
    const same = $(`[data-act] [value="${button.value}"]`);
    const menu = same?.closest("[data-menu]");
    const again = menu ? $("summary", menu) : same;
    (again && !menu?.hidden ? again : $("[data-act] button"))?.focus();
  }
  panel.addEventListener("submit", event => {
    if (!event.target.matches("[data-act]")) return;
    event.preventDefault();
    act(event.target, event.submitter);
  });
  document.addEventListener("keydown", event => {
    const menu = $("[data-menu][open]");
    if (event.key !== "Escape" || !menu) return;
    menu.open = false;
    $("summary", menu).focus();
  });
  document.addEventListener("click", event => {
    const menu = $("[data-menu][open]");
    if (menu && !menu.contains(event.target)) menu.open = false;
  });

  /* ---- what runs here now */
  const SHOWN = 12;
  const running = $("[data-running]");
  function rowOf(it) {
    const row = document.createElement("tr");
    const age = Math.max(0, it.age_ms) / 1000; // by the server's clock alone: two clocks may differ
    const texts = [it.model, it.api_key_name ?? NOTHING, it.streamed ? count(it.deltas) : NOTHING, age < 60 ? duration(age * 1000) : span(age)];
    texts.forEach((text, at) => {
      const cell = document.createElement(at === 0 ? "th" : "td");
      if (at === 0) cell.scope = "row";
      cell.className = ["mono", "", "n", "n"][at];
      cell.textContent = text;
      row.append(cell);
    });
    return row;
  }
  function sentence(text) {
    const row = document.createElement("tr");
    const cell = document.createElement("td");
    cell.colSpan = 4;
    cell.className = "muted";
    cell.textContent = text;
    row.append(cell);
    return row;
  }
  async function look() {
    if (!document.hidden) {
      const answer = await fetch("/api/live").catch(() => null);
      const told = answer?.ok ? await answer.json() : null;
      const here = told?.running.filter(it => it.endpoint_id === id) ?? [];
      const whole = told && told.workers_told === told.workers && !told.running_is_cut; // else there may be more here
      const rows = here.slice(0, SHOWN).map(rowOf);
      if (!whole && !here.length) rows.push(sentence(running.dataset.unread));
      else if (!here.length) rows.push(sentence(running.dataset.none));
      else if (here.length > SHOWN) rows.push(sentence(running.dataset.more.replace("{shown}", count(SHOWN)).replace("{all}", count(Math.max(here.length, live.active_requests ?? 0)))));
      running.tBodies[0].replaceChildren(...rows);
      set($("[data-running-count]"), whole ? count(here.length) : "");
    }
    setTimeout(look, 2000);
  }
  look();
})();
