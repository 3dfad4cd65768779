/**
 * Keys of every page: `/` searches, `g` and a letter open a page, `?` shows all keys, Escape closes.
 * None of them works while the user types text, or with Ctrl, Alt or the command key: the browser uses those.
 */

const SEQUENCE_MS = 1500; // time for the letter after `g`
const $ = selector => document.querySelector(selector);
const shown = element => element && element.getClientRects().length > 0;

const isTyping = element =>
  element.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(element.tagName);
// A checkbox or a button does not use these keys, so they work there, too.
const isButton = element =>
  element.tagName === "INPUT" && /^(checkbox|radio|button|submit|reset|image)$/.test(element.type);

/* ---- search box: the page's own filter comes before the search of all pages */
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

let sequenceEnds = 0; // the moment until which a letter after `g` opens a page
function go(key) {
  sequenceEnds = 0;
  const place = [...document.querySelectorAll("[data-go]")].find(link => link.dataset.go === key);
  if (place) location.assign(place.href);
  return Boolean(place);
}

document.addEventListener("keydown", event => {
  const target = event.target instanceof Element ? event.target : document.body;
  if (event.defaultPrevented || event.isComposing || event.repeat) return;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") return closeOpen(target);
  if (isTyping(target) && !isButton(target)) return;
  const modal = $("dialog[open]");
  if (modal && !(modal.matches("[data-help]") && event.key === "?")) return;
  if (performance.now() < sequenceEnds && go(event.key)) return event.preventDefault();
  const action = { "/": search, "?": help }[event.key];
  sequenceEnds = event.key === "g" ? performance.now() + SEQUENCE_MS : 0;
  if (action) {
    event.preventDefault();
    action();
  }
});

document.addEventListener("click", event => {
  if (event.target.closest("[data-help-open]")) help();
  else if (event.target.matches("[data-help]")) event.target.close(); // a click on the backdrop
  if (!event.target.closest(".search")) showSuggestions(false);
});

/* ---- suggestions: links below the box, reached by the arrow keys or by Tab */
const list = () => $("[data-suggested]");
const showSuggestions = show => list()?.classList.toggle("shut", !show);

function closeOpen(target) {
  if (target.closest(".search") && list()) {
    $("[data-search]").focus();
    showSuggestions(false);
  }
  for (const open of document.querySelectorAll("details.tab-more[open]")) open.open = false;
}

document.addEventListener("focusin", event => {
  if (event.target.matches("[data-search]")) showSuggestions(true);
  else if (!event.target.closest(".search")) showSuggestions(false);
});
document.addEventListener("input", event => {
  if (event.target.matches("[data-search]")) showSuggestions(true);
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
