import assert from "node:assert/strict";
import { test } from "node:test";
import { stubElement, stubPage } from "./stub_page.js";

const page = stubPage();
globalThis.BroadcastChannel = class {};
globalThis.setInterval = () => 0; // it would keep the process alive

/** Return an element with the class of a status; it notes what replaces it. */
function status(name) {
  const element = stubElement({ className: `st st-${name}` });
  element.classList = { contains: word => element.className.split(" ").includes(word) };
  element.cloneNode = () => status(name);
  element.replaceWith = other => (element.replacement = other);
  return element;
}
page.elements.set("[data-statuses]", {
  content: { children: [status("online"), status("offline")] },
});
page.elements.set("[data-drain]", stubElement({ dataset: {} }));
const { live, showState } = await import("../../static/js/endpoint_live.js");
Object.assign(live, { operator_state: "enabled", status: "offline" });

test("the status in the head changes, and no other status of the page", () => {
  const [first, inHead] = [status("online"), status("online")];
  page.elements.set("[data-status]", [first, inHead]);
  page.elements.set("[data-part=head]", {
    querySelector: selector => (selector === "[data-status]" ? inHead : null),
  });
  showState();
  assert.equal(inHead.replacement?.className, "st st-offline");
  assert.equal(first.replacement, undefined);
});

test("the form in the admin has no head, and its only status changes", () => {
  const only = status("online");
  page.elements.delete("[data-part=head]");
  page.elements.set("[data-status]", only);
  showState();
  assert.equal(only.replacement?.className, "st st-offline");
});
