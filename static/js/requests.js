/* The list of requests: one of them beside it, those that end while somebody looks, and how far an export is. */
(() => {
  "use strict";
  const { $, $$, set, number, follow } = window.RouterDash;
  const place = $("[data-place]");
  const rows = $("[data-rows]");
  const older = $("[data-older]");
  if (!rows) return;

  /** What the server answers in place of the page; null where it has nothing, or cannot be asked. */
  async function part(url) {
    const answer = await fetch(url).catch(() => null);
    if (answer?.redirected) location.reload(); // logged out
    return answer?.ok && !answer.redirected ? answer.text() : null;
  }

  function elements(html, inside = "div") {
    const holder = document.createElement(inside);
    holder.innerHTML = html;
    return [...holder.children];
  }

  /* ---- one request beside the list: its id is in the address, so back and forward work */
  const drawer = () => $("[data-drawer]");
  const here = () => new URLSearchParams(location.search).get("id");
  const rowOf = id => $$("tr", rows).find(row => row.dataset.id === id);

  function mark(id) {
    for (const row of $$("tr", rows)) {
      row.classList.toggle("is-open", row.dataset.id === id);
      const link = $("[data-open]", row);
      if (row.dataset.id === id) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }

  function close() {
    const id = drawer()?.dataset.drawer;
    drawer()?.remove();
    place.classList.remove("with-drawer");
    mark(null);
    if (id) $("[data-open]", rowOf(id) ?? rows)?.focus();
    showWaiting();
  }

  async function show(id) {
    const url = new URL(location.href);
    url.searchParams.set("id", id);
    url.searchParams.set("part", "drawer");
    const html = await part(url);
    if (here() !== id) return; // another one was chosen meanwhile
    if (html === null) return location.reload();
    drawer()?.remove();
    const [made] = elements(html);
    place.append(made);
    place.classList.add("with-drawer");
    mark(id);
    window.htmx?.process(made);
    made.focus({ preventScroll: true });
  }

  function go(id) {
    const url = new URL(location.href);
    if (id) url.searchParams.set("id", id);
    else url.searchParams.delete("id");
    history.pushState(null, "", url);
    return id ? show(id) : close();
  }

  addEventListener("popstate", () => (here() ? show(here()) : close()));
  document.addEventListener("click", event => {
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
    if (event.target.closest("[data-close-drawer]")) {
      event.preventDefault();
      return go(null);
    }
    const row = event.target.closest("[data-rows] tr");
    const link = event.target.closest("a");
    if (!row || (link && !link.matches("[data-open]")) || String(getSelection())) return;
    event.preventDefault();
    if (here() !== row.dataset.id || !drawer()) go(row.dataset.id);
  });
  addEventListener("keydown", event => {
    if (event.key === "Escape" && drawer() && !event.target.closest("input, select, textarea")) go(null);
  });

  /* ---- those that end while somebody looks: asked for when a figure says that there are some, at most one time a second */
  const OVERLAP_MS = 3000; // those of another worker may be told a moment later than ones that ended behind them
  const EVERY_MS = 1000;
  const REMEMBERED = 2000; // ids, of which the last few may come again
  const size = Number(rows.dataset.size);
  const waiting = []; // rows that came while one was read: the last that the list can show of so many
  let held = 0;
  const bar = $("[data-new-rows]");
  let newest = Math.max(Date.parse(rows.dataset.tail ?? 0), ...$$("tr", rows).map(row => Date.parse(row.dataset.at)));
  const known = new Set($$("tr", rows).map(row => row.dataset.id));

  const behind = (one, other) =>
    one.dataset.at === other.dataset.at ? one.dataset.id < other.dataset.id : one.dataset.at < other.dataset.at;

  /** Each where it belongs; as many stay as a page has, and what falls out is where "Older" begins. */
  function insert(made) {
    for (const row of made) {
      const next = [...rows.children].find(it => behind(it, row)) ?? null;
      rows.insertBefore(row, next);
    }
    if (rows.children.length <= size) return;
    while (rows.children.length > size) rows.lastElementChild.remove();
    const url = new URL(older.href);
    url.searchParams.delete("tail");
    url.searchParams.set("cursor", rows.lastElementChild.dataset.cursor);
    older.href = url;
    older.hidden = false;
  }

  function showWaiting() {
    insert(waiting.splice(0));
    held = 0;
    bar.hidden = true;
    $("[data-empty]").hidden = rows.children.length > 0;
  }

  /** Whether the database has yet to take what ended. */
  function sayBehind(is) {
    const note = $("[data-behind]");
    note.hidden = !is;
    const notes = note.closest("[role=status]");
    notes.hidden = $$("li", notes).every(it => it.hidden);
  }

  function take(made) {
    const fresh = made.filter(row => !known.has(row.dataset.id));
    for (const row of fresh) {
      known.add(row.dataset.id);
      newest = Math.max(newest, Date.parse(row.dataset.at));
    }
    for (const id of [...known].slice(0, known.size - REMEMBERED)) known.delete(id);
    waiting.push(...fresh);
    waiting.sort((one, other) => (behind(one, other) ? -1 : 1)).splice(0, waiting.length - size);
    if (!drawer()) return showWaiting();
    held += fresh.length;
    bar.hidden = held === 0;
    set(bar, bar.dataset.newRows.replace("{count}", number(held)));
  }

  let asking = false;
  let asked = 0;
  let again = null;
  async function poll() {
    clearTimeout(again);
    const wait = asked + EVERY_MS - Date.now();
    if (asking || wait > 0) return void (again = setTimeout(poll, Math.max(wait, 100)));
    asking = true;
    asked = Date.now();
    const url = new URL(location.href);
    url.searchParams.set("part", "rows");
    url.searchParams.set("scale", rows.dataset.scale);
    url.searchParams.set("after", new Date(newest - OVERLAP_MS).toISOString());
    const html = await part(url);
    asking = false;
    if (html === null) return;
    const made = elements(html, "tbody");
    sayBehind(made.some(it => it.matches("[data-more-to-come]")));
    take(made.filter(it => it.matches("tr")));
  }

  if (rows.dataset.tail) {
    bar.addEventListener("click", showWaiting);
    follow({
      overview: poll,
      changes(told) {
        if (told.stats) poll();
      },
    });
  }

  /* ---- exports: the browser saves them; here stands how far they are */
  const said = $("[data-export-said]");
  const PATIENCE = 10; // looks for one that has not begun
  function name() {
    const bytes = crypto.getRandomValues(new Uint8Array(16)); // randomUUID is only there under HTTPS
    return [...bytes].map(it => it.toString(16).padStart(2, "0")).join("");
  }

  async function watch(id, left = PATIENCE) {
    const answer = await fetch(`/api/requests/exports/${id}`).catch(() => null);
    const told = answer?.ok ? await answer.json() : null;
    if (told) {
      const size = number(told.bytes / 1e6, 1);
      set(said, said.dataset[told.state].replace("{rows}", number(told.rows)).replace("{size}", size));
    }
    if (told ? told.state === "running" : left > 0) setTimeout(watch, 500, id, told ? PATIENCE : left - 1);
  }

  for (const link of $$("[data-export]"))
    link.addEventListener("click", () => {
      const url = new URL(link.href);
      const id = name();
      url.searchParams.set("progress", id.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-"));
      link.href = url;
      setTimeout(watch, 500, url.searchParams.get("progress"));
    });
})();
