/** Filter of the API reference: it hides operations that do not match, and its text is in the address. */

import { $, $$ } from "./dom.js";

const box = $("[data-filter]");
const operations = $$("[data-operation]").map(element => [
  element,
  element.dataset.operation.toLowerCase(),
  element.id,
]);

function filter() {
  const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
  let matches = 0;
  for (const [element, text, id] of operations) {
    element.hidden = !words.every(word => text.includes(word));
    if (!element.hidden) matches += 1;
    for (const link of $$(`[data-contents] a[href="#${id}"]`))
      link.parentElement.hidden = element.hidden;
  }
  for (const group of $$("[data-group]"))
    group.hidden = !$("[data-operation]:not([hidden])", group);
  for (const group of $$("[data-contents] section")) group.hidden = !$("li:not([hidden])", group);
  $("[data-none]").hidden = matches > 0;
  const address = new URL(location.href);
  if (box.value) address.searchParams.set("q", box.value);
  else address.searchParams.delete("q");
  history.replaceState(history.state, "", address);
}

box.addEventListener("input", filter);
box.form.addEventListener("submit", event => event.preventDefault());
