/* Live events of a page: one stream, a sign that says how live it is, and the login page once the session has ended.
   A stream that breaks is made anew, later each time and at no common moment, and goes on where it was; where no stream
   comes through (a proxy that collects answers), the same events are asked for every few seconds. */
(() => {
  "use strict";
  const { $, $$, set, setUnits, clock, count, span, NOTHING } = window.RouterDash;
  const EVENTS = "/api/dashboard/events";
  const FIRST_WAIT = 500; // ms before the first new try, doubled with each one up to the longest
  const LONGEST_WAIT = 15000;
  const SILENCE = 25000; // a stream beats every 10 s
  const OPENING = 6000; // and begins with an event
  const POLL_EVERY = 3000;
  const POLLS = 40; // then a stream is tried again
  const STALE = 20000;
  const HIDDEN = 30000; // nobody looks at the page: its connection is left to others, of which a browser has six

  /* ---- other tabs of this browser look whether they are still logged in when one has come to the login page */
  const tabs = new BroadcastChannel("routerdash");
  if (document.body.dataset.page === "login") tabs.postMessage("login");

  /* ---- the sign: live, connecting, or as of a moment; pages need not have one */
  const sign = $("[data-live-sign]");
  const word = $("[data-sign-word]");
  function state(name) {
    if (!sign || sign.dataset.state === name) return;
    sign.dataset.state = name;
    set(word, word.dataset[name]);
    set($("[data-sign-say]"), word.dataset[name]);
  }

  /* Whoever has logged out since, or must change a password first, is sent there by the server. */
  async function ended() {
    const answer = await fetch("/api/dashboard/stats").catch(() => null);
    return answer?.status === 401 || answer?.status === 403;
  }
  const reloadIfEnded = async () => (await ended()) && location.reload();

  /* ---- ages go on by themselves */
  let ahead = 0; // of this clock, the server's
  const age = moment => span(Math.max(0, (Date.now() + ahead - Date.parse(moment)) / 1000));
  setInterval(() => {
    for (const element of $$("[data-age]").filter(it => it.dataset.age)) set(element, age(element.dataset.age));
  }, 5000);

  /** An endpoint's, with its age where the endpoint is offline: as the page has it (metrics/templatetags/figures.py). */
  function showLatency(cell, endpoint) {
    const [value, old] = [endpoint.latency_ms, endpoint.status === "offline" && endpoint.latency_ms != null];
    cell.classList.toggle("stale", old);
    cell.classList.toggle("muted", value == null);
    if (!old) cell.removeAttribute("title");
    if (value == null) return set(cell, NOTHING);
    if (!old) return setUnits(cell, `${count(value)} ms`);
    if (!$("small", cell)) cell.replaceChildren($("[data-old]").content.cloneNode(true));
    setUnits($("span", cell), `${count(value)} ms`);
    const note = $("[data-age]", cell);
    if (!note || !endpoint.last_seen || note.dataset.age === endpoint.last_seen) return;
    cell.title = endpoint.last_seen;
    note.dataset.age = endpoint.last_seen;
    set(note, age(endpoint.last_seen));
  }

  const followers = [];
  let source = null;
  let lastId = "";
  let heard = Date.now();
  let tries = 0;
  let polls = 0; // how many are left, while no stream comes through
  let timer = 0;
  let watch = 0; // for silence

  const later = (task, wait) => {
    clearTimeout(timer);
    timer = setTimeout(task, wait);
  };
  const address = more => {
    const query = new URLSearchParams(more);
    if (lastId) query.set("last_event_id", lastId);
    return `${EVENTS}?${query}`;
  };

  function hear(name, id, data) {
    heard = Date.now();
    tries = 0;
    lastId = id;
    state("live");
    const told = JSON.parse(data);
    if (told.generated_at) {
      set($("[data-clock]"), clock.format(new Date(told.generated_at)));
      ahead = Date.parse(told.generated_at) - Date.now();
    }
    if (told.endpoints?.length) $("[data-no-endpoints]")?.remove(); // one was added since the page came
    followers.forEach(listeners => listeners[name]?.(told));
  }

  function leave() {
    clearTimeout(timer);
    clearTimeout(watch);
    source?.close();
    source = null;
  }

  function stream() {
    leave();
    source = new EventSource(address());
    const silent = wait => {
      clearTimeout(watch);
      watch = setTimeout(() => (wait === OPENING ? poll(POLLS) : again()), wait);
    };
    silent(OPENING);
    source.addEventListener("open", () => lastId && silent(SILENCE)); // what has missed nothing gets nothing at first
    for (const name of ["overview", "changes"]) {
      source.addEventListener(name, event => {
        silent(SILENCE);
        hear(name, event.lastEventId, event.data);
      });
    }
    source.addEventListener("error", () => {
      const refused = source?.readyState === EventSource.CLOSED;
      again();
      if (refused) reloadIfEnded().then(pollIfFull);
    });
  }

  function again() {
    leave();
    state("reconnecting");
    const longest = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** tries);
    tries += 1;
    later(stream, longest * (0.5 + Math.random() / 2));
  }

  /* A user may have so many streams; the pages beyond ask, as where no stream comes through. */
  async function pollIfFull() {
    const answer = await fetch(address({ once: "" })).catch(() => null);
    if (answer?.headers.get("X-RouterDash-Streams") === "full" && !source) poll(POLLS);
  }

  async function poll(left) {
    leave();
    polls = left;
    const answer = await fetch(address({ once: "" })).catch(() => null);
    if (source || document.hidden) return;
    if (answer?.ok) (await answer.text()).split("\n\n").forEach(take);
    else state("reconnecting");
    if (answer?.status === 401 || answer?.status === 403) return location.reload();
    if (answer?.ok) state("live");
    if (answer?.ok) heard = Date.now();
    later(() => (left > 0 ? poll(left - 1) : stream()), POLL_EVERY * (0.8 + 0.4 * Math.random()));
  }

  /* An event as it stands in a stream. */
  function take(text) {
    const field = name => text.match(new RegExp(`^${name}: (.*)$`, "m"))?.[1];
    if (field("event")) hear(field("event"), field("id"), field("data"));
  }

  function connect() {
    setInterval(() => {
      if (!document.hidden && Date.now() - heard > STALE) state("stale");
    }, 1000);
    tabs.addEventListener("message", reloadIfEnded);
    addEventListener("online", () => !source && stream());
    let hidden = 0;
    document.addEventListener("visibilitychange", () => {
      clearTimeout(hidden);
      if (document.hidden) hidden = setTimeout(leave, HIDDEN);
      else if (!source) {
        tries = 0;
        state("reconnecting");
        if (polls > 0) poll(polls);
        else stream();
      }
    });
    stream();
  }

  /** Follow the dashboard's events: `listeners` by the event's name (metrics/events.py), each called with its data.
   * `overview` comes first, and again whenever changes would not do.
   */
  function follow(listeners) {
    followers.push(listeners);
    if (followers.length === 1) return connect();
    lastId = ""; // who comes later needs everything, too
    stream();
  }

  Object.assign(window.RouterDash, { follow, sign: state, showLatency });
})();
