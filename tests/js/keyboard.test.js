import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { stubElement, stubPage } from "./stub_page.js";

const page = stubPage();
await import("../../static/js/keyboard.js");

const press = (key, more = {}) => page.dispatch("keydown", { key, target: stubElement(), ...more });
const field = (type = "text") => stubElement({ tagName: "INPUT", type });
let focused = "";
const box = name => stubElement({ focus: () => (focused = name), select: () => {} });

beforeEach(() => {
  page.elements.clear();
  page.opened.length = 0;
  focused = "";
  press("x"); // ends a sequence that the test before has begun
});

test("g and a letter open a page", () => {
  page.elements.set("[data-go]", [{ dataset: { go: "m" }, href: "/models" }]);
  press("m");
  assert.deepEqual(page.opened, []);
  press("g");
  assert.equal(press("m").defaultPrevented, true);
  assert.deepEqual(page.opened, ["/models"]);
  press("m");
  assert.deepEqual(page.opened, ["/models"]);
});

test("no key works while text is typed, nor with Ctrl, Alt or the command key", () => {
  page.elements.set("[data-search]", box("search"));
  press("/", { target: field() });
  press("/", { target: stubElement({ isContentEditable: true }) });
  for (const key of ["ctrlKey", "metaKey", "altKey", "repeat", "isComposing"])
    press("/", { [key]: true });
  assert.equal(focused, "");
  press("/", { target: field("checkbox") });
  assert.equal(focused, "search");
});

test("the filter of the page comes before the search of everything", () => {
  page.elements.set("[data-search]", box("search"));
  page.elements.set("[data-slash]", box("filter"));
  assert.equal(press("/").defaultPrevented, true);
  assert.equal(focused, "filter");
});

test("a hidden box is left out, and without any the page of the search opens", () => {
  page.elements.set("[data-search]", Object.assign(box("search"), { getClientRects: () => [] }));
  page.elements.set(".search-link", { href: "/search" });
  press("/");
  assert.equal(focused, "");
  assert.deepEqual(page.opened, ["/search"]);
});

test("a question mark opens and closes the help", () => {
  const dialog = stubElement({
    open: false,
    matches: selector => selector === "[data-help]",
    showModal: () => (dialog.open = true),
    close: () => (dialog.open = false),
  });
  page.elements.set("[data-help]", dialog);
  press("?");
  assert.equal(dialog.open, true);
  page.elements.set("dialog[open]", dialog);
  press("/");
  press("?");
  assert.equal(dialog.open, false);
});
