/* Keys of every page: `/` searches, `g` and a letter go to a place, `?` shows them all, Escape closes.
 * None while something is typed, none with Ctrl, Alt or the command key: those are the browser's.
 */
(() => {
  "use strict";
  const PAUSE = 1500; // after which a `g` is forgotten
  const $ = selector => document.querySelector(selector);
  const shown = element => element && element.getClientRects().length > 0;

  const typing = element => element.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(element.tagName);
  // Keys that a checkbox or a button has no use for work there, too.
  const inert = element => element.tagName === "INPUT" && /^(checkbox|radio|button|submit|reset|image)$/.test(element.type);

  /* ---- the box: the page's own filter goes before the search of everything */
  function search() {
    const box = ["[data-slash]", "#searchbar", "[data-search]"].map($).find(shown);
    if (box) {
      box.focus();
      box.select();
    } else if ($(".search-link")) {
      location.assign($(".search-link").href);
    }
  }

  function help() {
    const dialog = $("[data-help]");
    if (!dialog) return;
    if (dialog.open) dialog.close();
    else dialog.showModal();
  }

  let goes = 0;
  function go(key) {
    goes = 0;
    const place = [...document.querySelectorAll("[data-go]")].find(it => it.dataset.go === key);
    if (place) location.assign(place.href);
    return Boolean(place);
  }

  document.addEventListener("keydown", event => {
    const target = event.target instanceof Element ? event.target : document.body;
    if (event.defaultPrevented || event.isComposing || event.repeat) return;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") return escape(target);
    if (typing(target) && !inert(target)) return;
    const modal = $("dialog[open]");
    if (modal && !(modal.matches("[data-help]") && event.key === "?")) return;
    if (performance.now() < goes && go(event.key)) return event.preventDefault();
    const does = { "/": search, "?": help }[event.key];
    goes = event.key === "g" ? performance.now() + PAUSE : 0;
    if (does) {
      event.preventDefault();
      does();
    }
  });

  document.addEventListener("click", event => {
    if (event.target.closest("[data-help-open]")) help();
    else if (event.target.matches("[data-help]")) event.target.close(); // beside it
    if (!event.target.closest(".search")) suggest(false);
  });

  /* ---- suggestions: links below the box, reached by the arrow keys or by Tab */
  const list = () => $("[data-suggested]");
  const suggest = show => list()?.classList.toggle("shut", !show);

  function escape(target) {
    if (target.closest(".search") && list()) {
      $("[data-search]").focus();
      suggest(false);
    }
    for (const open of document.querySelectorAll("details.tab-more[open]")) open.open = false;
  }

  document.addEventListener("focusin", event => {
    if (event.target.matches("[data-search]")) suggest(true);
    else if (!event.target.closest(".search")) suggest(false);
  });
  document.addEventListener("input", event => {
    if (event.target.matches("[data-search]")) suggest(true);
  });
  document.addEventListener("keydown", event => {
    if (!["ArrowDown", "ArrowUp"].includes(event.key) || !event.target.closest?.(".search")) return;
    const stops = [$("[data-search]"), ...list().querySelectorAll("a")];
    const next = stops[stops.indexOf(document.activeElement) + (event.key === "ArrowDown" ? 1 : -1)];
    if (next) {
      event.preventDefault();
      next.focus();
    }
  });
})();
