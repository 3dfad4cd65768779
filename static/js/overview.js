/* The overview: live figures, the 60-minute chart. The page is complete without it; this only keeps it up to date. */
(() => {
  "use strict";
  const { $, $$, set, forms, lang, zone, number, count, speed, duration, span, rate, hourMinute, NOTHING, follow } =
    window.RouterDash;

  /* ---- the chart: failures on the baseline, successes on top of them */
  const probe = document.createElement("i");
  probe.hidden = true;
  document.body.append(probe);
  const colour = name => {
    probe.style.color = `var(${name})`; // a custom property alone would come back as light-dark(…)
    return getComputedStyle(probe).color;
  };

  function chart(element, read) {
    let slots = [];
    let plot = null;
    const totals = () => slots.map(slot => slot.success + slot.error);
    const top = () => Math.max(4, ...totals()) * 1.08;
    const size = () => ({ width: Math.max(200, element.clientWidth), height: Math.max(120, element.clientHeight) });
    const series = () => {
      const pixel = top() / Math.max(60, element.clientHeight - 40);
      return [
        slots.map(slot => Date.parse(slot.minute) / 1000),
        totals(),
        slots.map(slot => (slot.error ? Math.max(slot.error, 4 * pixel) : null)), // a failure is never too small to see
      ];
    };
    function make() {
      plot?.destroy();
      const ink = colour("--ink-3");
      const font = `11px ${getComputedStyle(document.body).fontFamily}`;
      const unfinished = slots.map((_, at) => (at === slots.length - 1 ? colour("--c-ok-soft") : colour("--c-ok")));
      plot = new uPlot(
        {
          ...size(),
          padding: [4, 18, 0, 0],
          legend: { show: false },
          tzDate: seconds => uPlot.tzDate(new Date(seconds * 1000), zone || "UTC"),
          cursor: { x: true, y: false, points: { show: false }, drag: { x: false, y: false } },
          scales: { x: { range: (_, low, high) => [low - 36, high + 36] }, y: { range: () => [0, top()] } },
          axes: [
            { stroke: ink, font, grid: { show: false }, ticks: { show: false }, size: 24, gap: 4, space: 56, values: (_, at) => at.map(t => hourMinute.format(t * 1000)) },
            { stroke: ink, font, grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false }, size: 44, gap: 6, space: 44, values: (_, at) => at.map(n => number(n)) },
          ],
          series: [
            {},
            { fill: colour("--c-ok"), width: 0, points: { show: false }, paths: uPlot.paths.bars({ size: [0.7, 40], disp: { fill: { unit: 3, values: () => unfinished } } }) },
            { fill: colour("--c-bad"), width: 0, points: { show: false }, paths: uPlot.paths.bars({ size: [0.7, 40] }) },
          ],
          hooks: { setCursor: [it => read(it.cursor.idx == null ? null : slots[it.cursor.idx], slots)] },
        },
        series(),
        element,
      );
    }
    const redraw = () => slots.length && make(); // a canvas does not follow the theme by itself
    document.addEventListener("themechange", redraw);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
    new ResizeObserver(() => {
      if (plot && plot.width !== element.clientWidth) plot.setSize(size());
    }).observe(element);
    return fresh => {
      slots = fresh;
      if (plot) plot.setData(series());
      else make();
      const at = plot.cursor.idx; // whoever points at a minute goes on reading it
      read(at == null ? null : slots[at], slots);
    };
  }

  const readout = $("[data-readout]");
  function read(slot, slots) {
    const sum = name => slots.reduce((total, it) => total + it[name], 0);
    const at = it => hourMinute.format(new Date(it.minute));
    set($("[data-read=time]", readout), slot ? at(slot) : `${at(slots[0])}–${at(slots[slots.length - 1])}`);
    set($("[data-read=success]", readout), count(slot ? slot.success : sum("success")));
    set($("[data-read=error]", readout), count(slot ? slot.error : sum("error")));
  }

  const drawMinutes = chart($("[data-chart]"), read);

  /* ---- figures into the page */
  const fill = (row, value) => {
    const cells = value.map((text, at) => {
      const cell = document.createElement(at === 0 ? "th" : "td");
      if (at === 0) cell.scope = "row";
      cell.textContent = text;
      return cell;
    });
    row.replaceChildren(...cells);
    return row;
  };

  function showStats(stats) {
    const texts = {
      ...Object.fromEntries(Object.entries(stats).map(([name, value]) => [name, count(value)])),
      success_rate: rate(stats.successful_requests, stats.total_requests),
      average_response_time_ms: duration(stats.average_response_time_ms),
      oldest_waiting_secs: span(stats.oldest_waiting_secs),
    };
    $("[data-figures-version]").dataset.figuresVersion = stats.figures_version;
    $$("[data-stat]").forEach(element => set(element, texts[element.dataset.stat]));
    const caption = stats.successful_requests ? "served" : "unserved";
    $$("[data-caption]").forEach(element => (element.hidden = element.dataset.caption !== caption));
    const shown = {
      unrestored: !stats.figures_restored,
      waiting: stats.records_waiting_secs != null,
      unrecorded: stats.records_unrecorded > 0,
    };
    $$("[data-show]").forEach(row => (row.hidden = !shown[row.dataset.show]));
    const attention = $("[data-attention]");
    attention.hidden = !Object.values(shown).some(Boolean);
  }

  const statuses = forms("[data-statuses]", it => it.className.replace("st st-", ""));
  const breakers = forms("[data-breakers]", it => it.dataset.breaker);

  function showEndpoint(row, endpoint) {
    $$("[data-value]", row).forEach(cell => set(cell, count(endpoint[cell.dataset.value])));
    const name = endpoint.operator_state === "enabled" ? endpoint.status : endpoint.operator_state;
    const status = $("[data-status]", row);
    if (statuses[name] && !status.classList.contains(`st-${name}`)) status.replaceWith(statuses[name].cloneNode(true));
    const breaker = $("[data-breaker]", row);
    if (breaker.dataset.breaker !== endpoint.breaker) breaker.replaceWith(breakers[endpoint.breaker].cloneNode(true));
    set($("[data-error]", row), endpoint.last_error ?? "");
    const latency = $("[data-latency]", row);
    const stale = endpoint.status === "offline" && endpoint.latency_ms != null;
    latency.classList.toggle("stale", stale);
    latency.classList.toggle("muted", endpoint.latency_ms == null);
    const text = endpoint.latency_ms == null ? NOTHING : `${count(endpoint.latency_ms)} ms`;
    if (!(stale && latency.textContent.includes(count(endpoint.latency_ms)))) set(latency, text);
  }

  function showNone(table) {
    const row = document.createElement("tr");
    const cell = document.createElement("td");
    cell.colSpan = 6;
    cell.className = "muted w4";
    cell.textContent = table.dataset.none;
    row.append(cell);
    table.replaceChildren(row);
  }

  const speedKey = row => [row.endpoint_id, row.model_id, row.api_kind].join("\n");
  let speedRows = new Map();

  function fillSpeed(row, it) {
    const heads = $$("thead th", $("[data-speeds]").parentElement);
    fill(row, [
      it.endpoint_name,
      it.model_id,
      it.api_kind,
      speed(it.tps),
      count(it.request_count),
      count(it.total_output_tokens),
    ]);
    [...row.children].forEach((cell, at) => {
      cell.className = ["w2", "w2 mono", "opt w0", "n", "n w2", "n opt w0"][at];
      if (at === 3 || at === 4) cell.dataset.label = heads[at].textContent;
    });
    return row;
  }

  function showSpeeds(speeds) {
    const table = $("[data-speeds]");
    if (!table) return;
    speedRows = new Map(speeds.map(it => [speedKey(it), fillSpeed(document.createElement("tr"), it)]));
    if (speeds.length) table.replaceChildren(...speedRows.values());
    else showNone(table);
  }

  function showMore() {
    const note = $("[data-speeds-more]");
    if (note) note.hidden = live.speeds_known <= live.speeds.length;
  }

  const minutesTable = $("[data-minutes-table]");
  minutesTable.open = false; // without a script it stands in for the chart
  minutesTable.classList.add("ready");

  function showMinutes(history) {
    const rows = $("[data-minutes]").children;
    [...history].reverse().forEach((slot, at) => {
      fill(rows[at], [hourMinute.format(new Date(slot.minute)), count(slot.success), count(slot.error)]);
      [...rows[at].children].slice(1).forEach(cell => (cell.className = "n"));
    });
  }

  /* ---- what is shown: everything at first, then what changes (metrics/events.py) */
  let live = null;
  let rows = new Map();
  const shapeOf = it => it.endpoints.map(endpoint => endpoint.id).sort().join();

  function showRows(endpoints) {
    endpoints.forEach(endpoint => {
      const row = rows.get(endpoint.id);
      if (row) showEndpoint(row, endpoint);
    });
  }

  function showHistory() {
    drawMinutes(live.history);
    showMinutes(live.history);
  }

  function showAll(fresh) {
    // endpoints came or went: rows are the server's work; first_run.js goes on by itself
    if (live !== null && shapeOf(live) !== shapeOf(fresh) && !$("[data-first-run]")) return location.reload();
    live = fresh;
    rows = new Map($$("[data-endpoint]").map(row => [row.dataset.endpoint, row]));
    showStats(live.stats);
    showRows(live.endpoints);
    showSpeeds(live.speeds);
    showMore();
    showHistory();
  }

  function showChanges(part) {
    live.generated_at = part.generated_at;
    if (part.stats) showStats(Object.assign(live.stats, part.stats));
    if (part.endpoints) {
      const touched = live.endpoints.filter(endpoint => endpoint.id in part.endpoints);
      touched.forEach(endpoint => Object.assign(endpoint, part.endpoints[endpoint.id]));
      showRows(touched);
    }
    if (part.all_speeds) showSpeeds((live.speeds = part.all_speeds));
    (part.speeds ?? []).forEach(it => {
      const row = speedRows.get(speedKey(it));
      if (row) fillSpeed(row, it);
    });
    live.speeds_known = part.speeds_known ?? live.speeds_known;
    showMore();
    if (part.history) {
      const minutes = new Map([...live.history, ...part.history].map(slot => [slot.minute, slot]));
      live.history = [...minutes.values()].slice(-60);
      showHistory();
    }
  }

  showAll(JSON.parse($("#live").textContent));

  follow({ overview: showAll, changes: showChanges });
})();
