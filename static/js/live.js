/* Live events of a page: one stream, a sign that says how live it is, and the login page once the session has ended. */
(() => {
  "use strict";
  const { $, set, clock } = window.RouterDash;

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

  /** Follow the dashboard's events: `listeners` by the event's name (metrics/events.py), each called with its data. The
   * browser reconnects by itself, unless the session has ended.
   */
  function follow(listeners) {
    let heard = Date.now();
    function connect() {
      const source = new EventSource("/api/dashboard/events");
      source.addEventListener("open", () => {
        heard = Date.now();
        state("live");
      });
      for (const [name, show] of Object.entries(listeners)) {
        source.addEventListener(name, event => {
          heard = Date.now();
          state("live");
          const told = JSON.parse(event.data);
          if (told.generated_at) set($("[data-clock]"), clock.format(new Date(told.generated_at)));
          show(told);
        });
      }
      source.addEventListener("error", () => {
        state("reconnecting");
        if (source.readyState === EventSource.CLOSED) {
          source.close();
          setTimeout(connectAgain, 5000);
        }
      });
    }
    const reloadIfEnded = async () => (await ended()) && location.reload();
    const connectAgain = async () => ((await ended()) ? location.reload() : connect());
    tabs.addEventListener("message", reloadIfEnded);
    setInterval(() => {
      if (Date.now() - heard > 20000) state("stale");
    }, 1000);
    connect();
  }

  Object.assign(window.RouterDash, { follow, sign: state });
})();
