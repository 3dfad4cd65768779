import assert from "node:assert/strict";
import { test } from "node:test";
import { stubPage } from "./stub_page.js";

stubPage();
const { heightLabel, labelledBars, lowerHeight, scaleTop } = await import(
  "../../static/js/bar_geometry.js"
);

test("heights have short labels", () => {
  const labels = { 0: "0", 9999: "9,999", 10000: "10 k", 12500: "12.5 k", 3000000: "3 M", 0.5: "" };
  for (const [value, label] of Object.entries(labels))
    assert.equal(heightLabel(Number(value)), label);
});

test("the scale ends above the highest bar, and never below four", () => {
  assert.equal(scaleTop([]), 4 * 1.08);
  assert.equal(scaleTop([{ lower: 1, upper: 1 }]), 4 * 1.08);
  assert.equal(scaleTop([{ lower: 20, upper: 80 }]), 100 * 1.08);
});

test("a failure has a least height", () => {
  assert.equal(lowerHeight({ lower: 0, upper: 100 }, 5, false), null);
  assert.equal(lowerHeight({ lower: 1, upper: 100 }, 5, false), 5);
  assert.equal(lowerHeight({ lower: 9, upper: 100 }, 5, false), 9);
});

test("a failure leaves half of a low bar to the successes", () => {
  assert.equal(lowerHeight({ lower: 1, upper: 1 }, 5, true), 1);
  assert.equal(lowerHeight({ lower: 1, upper: 5 }, 5, true), 3);
  assert.equal(lowerHeight({ lower: 1, upper: 0 }, 5, true), 5);
});

test("labels have the room that they need, and the last bar has one", () => {
  const bars = Array.from({ length: 10 }, (_, index) => ({
    label: index % 2 ? String(index) : "",
  }));
  assert.deepEqual(labelledBars(bars, 1000, 70), [1, 3, 5, 7, 9]);
  assert.deepEqual(labelledBars(bars, 200, 70), [1, 5, 9]);
  assert.deepEqual(labelledBars(bars, 100, 70), [1, 9]);
  assert.deepEqual(labelledBars([{ label: "" }], 100, 70), []);
});
