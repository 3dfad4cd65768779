import assert from "node:assert/strict";
import { test } from "node:test";
import { stubPage } from "./stub_page.js";

stubPage();
const english = await import("../../static/js/format.js");
stubPage({ lang: "ja", timeZone: "Asia/Tokyo" });
const japanese = await import("../../static/js/format.js?ja");

test("a value that was never measured is a dash", () => {
  for (const name of ["count", "speed", "duration", "span", "compact"])
    assert.equal(english[name](null), english.NOTHING);
  assert.equal(english.rate(0, 0), english.NOTHING);
  assert.equal(english.share(0, 0), english.NOTHING);
  assert.equal(english.count(0), "0");
});

test("durations are in milliseconds below a second", () => {
  assert.equal(english.duration(999), "999 ms");
  assert.equal(english.duration(999.6), "1.00 s");
  assert.equal(english.duration(1000), "1.00 s");
  assert.equal(english.duration(61_234), "61.23 s");
});

test("speeds have a decimal below a hundred", () => {
  assert.equal(english.speed(99.44), "99.4");
  assert.equal(english.speed(1234.5), "1,235");
});

test("big numbers have three digits", () => {
  assert.equal(english.compact(999_999), "999,999");
  assert.equal(english.compact(1_234_567), "1.23 M");
  assert.equal(english.compact(61_840_000), "61.8 M");
  assert.equal(english.compact(123_400_000_000), "123 G");
});

test("spans have the largest unit of which there are two", () => {
  assert.equal(english.span(119), "119 s");
  assert.equal(english.span(120), "2 min");
  assert.equal(english.span(7200), "2 h");
  assert.equal(english.span(172_800), "2 d");
  assert.equal(japanese.span(7200), "2 時間");
});

test("a span is never negative, because two clocks may differ", () => {
  assert.equal(english.span(-54), "0 s");
});

test("a rate is 100 % only without a failure", () => {
  assert.equal(english.rate(3, 3), "100 %");
  assert.equal(english.rate(999_999, 1_000_000), "99.99 %");
  assert.equal(english.rate(1, 3), "33.3 %");
  assert.equal(japanese.rate(3, 3), "100%");
});

test("a share is 0 % only if there is none", () => {
  assert.equal(english.share(0, 10), "0.0 %");
  assert.equal(english.share(1, 1_000_000), "0.1 %");
});

test("times are those of the viewer's zone", () => {
  const moment = new Date("2026-11-19T15:30:00Z");
  assert.equal(english.hourMinute.format(moment), "15:30");
  assert.equal(japanese.hourMinute.format(moment), "00:30");
  assert.equal(english.monthDay.format(moment), "19 Nov");
  assert.equal(japanese.monthDay.format(moment), "11月20日");
  assert.equal(english.since(moment), "19 Nov");
  const now = new Date();
  assert.equal(english.since(now), english.hourMinute.format(now));
});
