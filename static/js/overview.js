/* The overview: live figures, the 60-minute chart. The page is complete without it; this only keeps it up to date. */
(() => {
  "use strict";
  const { $, $$, set, setUnits, forms, zone, number, count, compact, speed, duration, span, rate, share, since } =
    window.RouterDash;
  const { hourMinute, NOTHING, follow, showLatency, colour, hatch } = window.RouterDash;

  /* ---- marks above the chart: the server wrote them, here they get their places and their lines */
  const tints = { online: "--ok", offline: "--bad", error: "--bad", edit: "--line-strong", pending: "--line-strong" };
  /* a minute's bar has its middle where the minute begins: half a minute further back */
  const marks = () =>
    $$("[data-at]").map(mark => ({ mark, at: Date.parse(mark.dataset.at) / 1000 - 30, kind: mark.dataset.kind }));

  function drawMarks(plot) {
    const { ctx: pen, bbox } = plot;
    const [first, last] = [plot.scales.x.min, plot.scales.x.max];
    pen.save();
    pen.lineWidth = devicePixelRatio;
    pen.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
    for (const { mark, at, kind } of marks()) {
      mark.hidden = at < first || at > last;
      if (mark.hidden) continue;
      mark.style.left = `${plot.over.offsetLeft + plot.valToPos(at, "x")}px`;
      const x = Math.round(plot.valToPos(at, "x", true)) + 0.5;
      pen.strokeStyle = colour(tints[kind] ?? "--line-strong");
      pen.beginPath();
      pen.moveTo(x, bbox.top);
      pen.lineTo(x, bbox.top + bbox.height);
      pen.stroke();
    }
    pen.restore();
  }

  function chart(element, read, open) {
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
    const tens = () => slots.map(slot => Date.parse(slot.minute) / 1000).filter(at => at % 600 === 0);
    function make() {
      plot?.destroy();
      const ink = colour("--ink-3");
      const font = `11px ${getComputedStyle(document.body).fontFamily}`;
      const [whole, unfinished] = [colour("--c-ok"), colour("--c-ok-soft")];
      const fills = () => slots.map((_, at) => (at === slots.length - 1 ? unfinished : whole));
      const bars = more => ({ width: 0, points: { show: false }, ...more });
      plot = new uPlot(
        {
          ...size(),
          padding: [4, 18, 0, 0],
          legend: { show: false },
          tzDate: seconds => uPlot.tzDate(new Date(seconds * 1000), zone || "UTC"),
          cursor: { x: true, y: false, points: { show: false }, drag: { x: false, y: false } },
          scales: { x: { range: (_, low, high) => [low - 36, high + 36] }, y: { range: () => [0, top()] } },
          axes: [
            { stroke: ink, font, grid: { show: false }, ticks: { show: false }, size: 24, gap: 4, splits: tens, values: (_, at) => at.map(t => hourMinute.format(t * 1000)) },
            { stroke: ink, font, grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false }, size: 44, gap: 6, space: 44, values: (_, at) => at.map(n => (Number.isInteger(n) ? number(n) : "")) },
          ],
          series: [
            {},
            bars({ fill: whole, paths: uPlot.paths.bars({ size: [0.7, 40], disp: { fill: { unit: 3, values: fills } } }) }),
            bars({ fill: hatch, stroke: colour("--surface"), width: 1, paths: uPlot.paths.bars({ size: [0.7, 40] }) }),
          ],
          hooks: {
            setCursor: [it => read(it.cursor.idx == null ? null : slots[it.cursor.idx], slots)],
            draw: [drawMarks],
            ready: [it => it.over.addEventListener("click", () => it.cursor.idx != null && open(slots[it.cursor.idx]))],
          },
        },
        series(),
        element,
      );
    }
    const redraw = () => slots.length && make(); // a canvas does not follow the theme by itself
    document.addEventListener("themechange", redraw);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
    let frame = 0;
    new ResizeObserver(() => {
      cancelAnimationFrame(frame);
      frame = requestAnimationFrame(() => {
        if (plot && (plot.width !== size().width || plot.height !== size().height)) plot.setSize(size());
      });
    }).observe(element);
    return fresh => {
      slots = fresh ?? slots;
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
    const [success, error] = slot ? [slot.success, slot.error] : [sum("success"), sum("error")];
    set($("[data-read=time]", readout), slot ? at(slot) : `${at(slots[0])}–${at(slots[slots.length - 1])}`);
    set($("[data-read=success]", readout), count(success));
    set($("[data-read=error]", readout), count(error));
    set($("[data-read=rate]", readout), rate(success, success + error));
  }

  const plotted = $("[data-chart]");
  const requestsOf = slot => {
    const until = new Date(Date.parse(slot.minute) + 60000).toISOString();
    return `${plotted.dataset.requests}?${new URLSearchParams({ since: new Date(slot.minute).toISOString(), until })}`;
  };
  plotted.classList.add("opens");
  const drawMinutes = chart(plotted, read, slot => (location.href = requestsOf(slot)));

  /* ---- how a figure is counted: beside its button; without this, a sheet at the bottom */
  for (const pop of $$("[popover]")) {
    pop.addEventListener("toggle", event => {
      const button = $(`[popovertarget="${pop.id}"]`);
      button.setAttribute("aria-expanded", String(event.newState === "open"));
      pop.classList.remove("placed");
      if (event.newState !== "open" || innerWidth < 640) return;
      const at = button.getBoundingClientRect();
      pop.classList.add("placed");
      pop.style.left = `${Math.max(16, Math.min(at.right - pop.offsetWidth + 8, innerWidth - pop.offsetWidth - 16))}px`;
      const under = at.bottom + 6;
      pop.style.top = `${under + pop.offsetHeight < innerHeight ? under : Math.max(8, at.top - pop.offsetHeight - 6)}px`;
    });
  }

  /* ---- small lines and meters, as metrics/templatetags/figures.py draws them */
  function drawSpark(key, values) {
    const spark = $(`[data-spark=${key}]`);
    const known = values.filter(value => value != null);
    if (!known.length) return;
    const least = key === "success" ? Math.min(...known) : 0;
    const height = Math.max(...known) - least || 1;
    const points = values
      .map((value, at) => value != null && [(at * 80) / (values.length - 1), 30 - ((value - least) / height) * 26])
      .filter(Boolean)
      .map(([x, y]) => [x.toFixed(1), y.toFixed(1)]);
    const line = points.map(point => point.join(",")).join(" ");
    const last = points[points.length - 1];
    spark.children[0].setAttribute("points", `${points[0][0]},32 ${line} ${last[0]},32`);
    spark.children[1].setAttribute("points", line);
    spark.children[2].setAttribute("d", `M${last.join(" ")}h0`);
  }

  function fillMeter(meter, value) {
    const most = Number(meter.dataset.most);
    const parts = [...meter.children];
    if (most <= 8) parts.forEach((part, at) => part.setAttribute("class", at < value ? "f" : "t"));
    else parts[1].setAttribute("width", `${Math.min(100, (100 * value) / most).toFixed(1)}%`);
    meter.classList.toggle("full", value >= most);
  }

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
  const sum = (rows, name) => rows.reduce((total, row) => total + row[name], 0);

  function showStats() {
    const { stats, history } = live;
    const [ok, failed] = [sum(history, "success"), sum(history, "error")];
    const today = stats.today_input_tokens + stats.today_output_tokens;
    const texts = {
      ...Object.fromEntries(Object.entries(stats).map(([name, value]) => [name, count(value)])),
      tokens_per_second: speed(stats.tokens_per_second),
      success_rate: rate(ok, ok + failed),
      recent_failed: count(failed),
      today_tokens: compact(today),
      average_response_time_ms: duration(stats.average_response_time_ms),
      p95_response_time_ms: duration(stats.p95_response_time_ms),
      p50_first_token_ms: duration(stats.p50_first_token_ms),
      oldest_waiting_secs: span(stats.oldest_waiting_secs),
    };
    $("[data-figures-version]").dataset.figuresVersion = stats.figures_version;
    $$("[data-stat]").forEach(element => {
      const text = texts[element.dataset.stat];
      if (element.dataset.units === undefined) set(element, text);
      else setUnits(element, text);
    });
    $("[data-stat=today_tokens]").title = count(today);
    const caption = stats.successful_requests ? "served" : "unserved";
    $$("[data-caption]").forEach(element => (element.hidden = element.dataset.caption !== caption));
  }

  function showSparks() {
    const { history, minutes } = live;
    for (const name of ["online", "in_flight", "queued", "first_token_ms", "average_ms", "p95_ms"]) {
      drawSpark(name, minutes.map(minute => minute[name]));
    }
    drawSpark("success", history.map(({ success, error }) => (success + error ? success / (success + error) : null)));
    // Sums end with the last whole minute, as the running one would be a fall.
    drawSpark("requests", history.slice(0, -1).map(slot => slot.success + slot.error));
    drawSpark("output_tokens", minutes.slice(0, -1).map(minute => minute.output_tokens));
    drawSpark("tokens", minutes.slice(0, -1).map(minute => minute.input_tokens + minute.output_tokens));
    for (const element of $$("[data-peak]")) {
      const known = minutes.map(minute => minute[element.dataset.peak]).filter(value => value != null);
      set(element, count(known.length ? Math.max(...known) : null));
    }
  }

  const statuses = forms("[data-statuses]", it => it.className.replace("st st-", ""));
  const breakers = forms("[data-breakers]", it => it.dataset.breaker);

  function because(endpoint) {
    if (!["offline", "error"].includes(endpoint.status) || endpoint.operator_state !== "enabled") return "";
    const at = endpoint.status_since && since(new Date(endpoint.status_since));
    return [at, endpoint.last_error].filter(Boolean).join(" · ");
  }

  function showEndpoint(row, endpoint) {
    $$("[data-value]", row).forEach(cell => set(cell, count(endpoint[cell.dataset.value])));
    const name = endpoint.operator_state === "enabled" ? endpoint.status : endpoint.operator_state;
    const status = $("[data-status]", row);
    if (statuses[name] && !status.classList.contains(`st-${name}`)) status.replaceWith(statuses[name].cloneNode(true));
    const breaker = $("[data-breaker]", row);
    if (breaker.dataset.breaker !== endpoint.breaker) breaker.replaceWith(breakers[endpoint.breaker].cloneNode(true));
    set($("[data-error]", row), because(endpoint));
    showLatency($("[data-latency]", row), endpoint);
    const meter = $(".meter", row);
    if (meter) fillMeter(meter, endpoint.active_requests);
    set($("[data-speed]", row), speed(endpoint.tokens_per_second));
    const failed = endpoint.recent_attempts ? endpoint.recent_failures / endpoint.recent_attempts : 0;
    const ratio = $("[data-ratio]", row);
    ratio.className = failed >= 0.1 ? "bad" : failed >= 0.02 ? "warn" : "";
    set(ratio, share(endpoint.recent_failures, endpoint.recent_attempts));
  }

  /* ---- the busiest */
  function rankRow(list, { id, label, requests }, most) {
    const row = document.createElement("li");
    const name = document.createElement(id ? "a" : "span");
    if (name.href !== undefined) name.href = list.dataset.url + encodeURIComponent(id);
    name.className = id ? (list.dataset.rank === "api_keys" ? "" : "mono") : "muted";
    name.textContent = label;
    const figure = document.createElement("span");
    figure.textContent = count(requests);
    const meter = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    meter.setAttribute("class", "meter calm");
    meter.setAttribute("aria-hidden", "true");
    for (const [part, width] of [["t", 100], ["f", (100 * requests) / most]]) {
      const rect = document.createElementNS(meter.namespaceURI, "rect");
      rect.setAttribute("class", part);
      rect.setAttribute("width", `${width.toFixed(1)}%`);
      rect.setAttribute("height", "100%");
      meter.append(rect);
    }
    row.append(name, figure, meter);
    return row;
  }

  function showBusiest() {
    const keyLabel = (row, { noKey, deletedKey }) => (row.api_key_id ? (row.api_key_name ?? deletedKey) : noKey);
    for (const list of $$("[data-rank]")) {
      const found = live.busiest[list.dataset.rank].map(row => ({
        id: row.model_id ?? row.ip ?? row.api_key_id,
        label: row.model_id ?? row.ip ?? keyLabel(row, list.dataset),
        requests: row.requests,
      }));
      const none = document.createElement("li");
      none.className = "muted";
      none.textContent = list.dataset.none;
      list.replaceChildren(...(found.length ? found.map(row => rankRow(list, row, found[0].requests)) : [none]));
    }
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

  /* ---- parts that the server writes, in the viewer's language: asked for anew when what they are of has changed */
  async function refresh(name) {
    const answer = await fetch(`?part=${name}`).catch(() => null);
    if (!answer?.ok || answer.redirected) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const parts = $$(`[data-part=${name}]`, fresh);
    $$(`[data-part=${name}]`).forEach((part, at) => parts[at] && part.replaceWith(document.adoptNode(parts[at])));
    if (name === "marks") drawMinutes();
    if (name === "endpoints") showTables();
    if (name === "attention") showStats();
  }
  const due = new Map();
  function refreshSoon(name) {
    if (!due.has(name)) due.set(name, setTimeout(() => (due.delete(name), refresh(name)), 400 * Math.random())); // not all pages at once
  }

  /* ---- what is shown: everything at first, then what changes (metrics/events.py) */
  let live = null;
  let rows = new Map();
  const shapeOf = it => it.endpoints.map(endpoint => `${endpoint.id} ${endpoint.slots}`).sort().join();
  const asText = JSON.stringify;
  const refreshRows = () => $("[data-first-run]") || refreshSoon("endpoints"); // the first run's page goes on by itself

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

  function showTables() {
    rows = new Map($$("[data-endpoint]").map(row => [row.dataset.endpoint, row]));
    showRows(live.endpoints);
    showSpeeds(live.speeds);
    showMore();
  }

  function showAll(fresh) {
    const before = live;
    live = fresh;
    if (before) {
      // rows are the server's work
      if (shapeOf(before) !== shapeOf(live)) refreshRows();
      for (const name of ["attention", "marks"]) if (asText(before[name]) !== asText(live[name])) refreshSoon(name);
    }
    showStats();
    showSparks();
    showTables();
    showBusiest();
    showHistory();
  }

  const merged = (old, changed) => {
    const minutes = new Map([...old, ...changed].map(slot => [slot.minute, slot]));
    return [...minutes.values()].slice(-60);
  };

  function showChanges(part) {
    live.generated_at = part.generated_at;
    Object.assign(live.stats, part.stats);
    if (part.endpoints) {
      const shape = shapeOf(live);
      const touched = live.endpoints.filter(endpoint => endpoint.id in part.endpoints);
      touched.forEach(endpoint => Object.assign(endpoint, part.endpoints[endpoint.id]));
      if (shape !== shapeOf(live)) refreshRows();
      showRows(touched);
    }
    if (part.all_speeds) showSpeeds((live.speeds = part.all_speeds));
    (part.speeds ?? []).forEach(it => {
      const row = speedRows.get(speedKey(it));
      if (row) fillSpeed(row, it);
    });
    live.speeds_known = part.speeds_known ?? live.speeds_known;
    showMore();
    if (part.history) live.history = merged(live.history, part.history);
    if (part.minutes) live.minutes = merged(live.minutes, part.minutes);
    if (part.history) showHistory();
    if (part.history || part.minutes) showSparks();
    if (part.stats || part.history) showStats();
    if (part.busiest) {
      live.busiest = part.busiest;
      showBusiest();
    }
    for (const name of ["attention", "marks"]) {
      if (part[name]) {
        live[name] = part[name];
        refreshSoon(name);
      }
    }
  }

  showAll(JSON.parse($("#live").textContent));

  follow({ overview: showAll, changes: showChanges });
})();
