/**
 * Parts of a page that the server renders, put into the open page.
 *
 * Scripts use `fetchPart` and `swapParts`. Attributes of forms and links control where their response goes:
 *   data-swap="SELECTOR"          the response replaces the content of this element
 *   data-swap-closest="SELECTOR"  the response replaces this element around the form
 *   data-swap-append              the response is appended instead
 *   data-swap-select="SELECTOR"   only this element of the response replaces the target
 *   data-swap-address             the address of the response becomes that of the page
 *   data-swap-refused="SELECTOR"  a response with status 422 goes into this element
 *   data-swap-on="EVENTS"         `submit`, the default; `load` of the page; `change` of a field; `input` of text
 * Without scripts they are ordinary forms and links. The header X-RouterDash-Part marks requests for a part.
 */

import { $, $$ } from "./dom.js";

const TYPING_PAUSE = 250; // ms
const requests = new WeakMap(); // the last request of each element: a newer one aborts it

/**
 * Return the HTML at an address as a fragment and the status of the response; null if there is no HTML to show.
 * A redirect leads to the login page, so the page is loaded again.
 */
export async function fetchPart(url, init = {}) {
  const headers = { Accept: "text/html", "X-RouterDash-Part": "true" };
  const response = await fetch(url, { ...init, headers }).catch(() => null);
  if (response?.redirected) location.reload();
  if (!response || response.redirected || !(response.ok || response.status === 422)) return null;
  const template = document.createElement("template");
  template.innerHTML = await response.text();
  return { content: template.content, refused: response.status === 422 };
}

/** Return the element of `fresh` that is the counterpart of the focused one: the same id, link or button. */
function counterpart(focused, fresh) {
  const value = name => CSS.escape(focused.getAttribute(name) ?? "");
  if (focused.id) return $(`#${CSS.escape(focused.id)}`, fresh);
  if (focused.matches("a[href]")) return $(`a[href="${value("href")}"]`, fresh);
  if (focused.matches("button[name]"))
    return $(`button[name="${value("name")}"][value="${value("value")}"]`, fresh);
  return null;
}

/** Replace an element, and keep the focus. An element that would lose the focus stays, unless `always` is true. */
function replace(part, fresh, always) {
  const focused = part.contains(document.activeElement) ? document.activeElement : null;
  const next = focused && counterpart(focused, fresh);
  if (focused && !next && !always) return;
  part.replaceWith(fresh);
  next?.focus({ preventScroll: true });
}

/**
 * Replace the elements with `data-part` that differ from those of the same name in `content`, except the names in
 * `except`. An element that would lose the focus stays as it is, unless its name is in `always`.
 */
export function swapParts(content, { except = [], always = [] } = {}) {
  const fresh = new Map();
  for (const part of $$("[data-part]", content))
    fresh.set(part.dataset.part, [...(fresh.get(part.dataset.part) ?? []), part]);
  for (const part of $$("[data-part]")) {
    const other = fresh.get(part.dataset.part)?.shift();
    if (!other || !part.isConnected || except.includes(part.dataset.part)) continue;
    if (other.isEqualNode(part)) continue;
    replace(part, document.importNode(other, true), always.includes(part.dataset.part));
  }
}

function insert(element, { content, refused }) {
  const { swap, swapClosest, swapAppend, swapSelect, swapRefused } = element.dataset;
  if (refused && swapRefused) return $(swapRefused).replaceChildren(content);
  const target = swapClosest ? element.closest(swapClosest) : $(swap);
  if (swapClosest) target.replaceWith(content);
  else if (swapSelect) target.replaceWith($(swapSelect, content));
  else if (swapAppend !== undefined) target.append(content);
  else {
    const id = target.contains(document.activeElement) ? document.activeElement.id : "";
    target.replaceChildren(content);
    if (id) document.getElementById(id)?.focus();
  }
}

/** Return the address of a form's GET request, without empty fields and those that its script removes. */
function addressOf(form) {
  const fields = new FormData(form);
  form.dispatchEvent(new CustomEvent("part:fields", { detail: fields }));
  const query = new URLSearchParams([...fields].filter(([, value]) => value !== ""));
  return `${form.getAttribute("action")}${query.size ? `?${query}` : ""}`;
}

/** Send the request of a form or link, and put its response into the page. */
export async function load(element, url = null) {
  const form = element instanceof HTMLFormElement ? element : null;
  const post = form?.method === "post";
  const address =
    url ??
    (!form ? element.getAttribute("href") : post ? form.getAttribute("action") : addressOf(form));
  const pushed = element.dataset.swapAddress !== undefined;
  if (form && pushed && url === null && address === location.pathname + location.search) return;
  requests.get(element)?.abort();
  const request = new AbortController();
  requests.set(element, request);
  const init = post ? { method: "POST", body: new FormData(form) } : {};
  const button = post ? $("button", form) : null;
  if (button) button.disabled = true;
  const part = await fetchPart(address, { ...init, signal: request.signal });
  if (button) button.disabled = false;
  if (!part || request.signal.aborted) return;
  if (pushed && url === null) history.pushState(null, "", address);
  insert(element, part);
  document.dispatchEvent(new Event("part:swapped"));
}

document.addEventListener("submit", event => {
  const { swap, swapClosest, swapOn = "submit" } = event.target.dataset;
  if (!(swap || swapClosest) || !swapOn.split(" ").includes("submit")) return;
  event.preventDefault();
  load(event.target);
});
document.addEventListener("click", event => {
  if (event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
  const link = event.target.closest("a[data-swap]");
  if (!link) return;
  event.preventDefault();
  load(link);
});
document.addEventListener("change", event => {
  const form = event.target.closest("[data-swap-on~=change]");
  if (form) load(form);
});
let typingTimer = 0;
document.addEventListener("input", event => {
  const form = event.target.closest("[data-swap-on~=input]");
  if (!form || !event.target.matches("input")) return;
  clearTimeout(typingTimer);
  typingTimer = setTimeout(load, TYPING_PAUSE, form);
});
// An address that was pushed has no state of its own: going back loads that page.
if ($("[data-swap-address]")) addEventListener("popstate", () => location.reload());
$$("[data-swap-on~=load]").forEach(form => load(form));
