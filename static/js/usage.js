/** Chart of the usage over time. */

import { barChart } from "./bars.js";
import { $, set } from "./dom.js";
import { count, dates } from "./format.js";

const { slots, measure, now, monthly } = JSON.parse($("#series").textContent);

// Days are those of the server's zone; their dates are formatted in UTC, so that they stay the same.
const date = at => new Date(`${at}${monthly ? "-01" : ""}T00:00:00Z`);
const long = new Intl.DateTimeFormat(
  dates,
  monthly
    ? { year: "numeric", month: "long", timeZone: "UTC" }
    : { year: "numeric", month: "short", day: "numeric", timeZone: "UTC" },
);
const short = new Intl.DateTimeFormat(
  dates,
  monthly
    ? { year: "2-digit", month: "short", timeZone: "UTC" }
    : { month: "short", day: "numeric", timeZone: "UTC" },
);

const tokens = measure === "tokens";
const one = tokens ? "input_tokens" : "successful_requests";
const other = tokens ? "output_tokens" : "failed_requests";
const sum = name => slots.reduce((total, slot) => total + slot[name], 0);

function read(at) {
  const slot = at == null ? null : slots[at];
  const whole =
    slots.length > 1
      ? `${short.format(date(slots[0].at))}–${short.format(date(slots[slots.length - 1].at))}`
      : long.format(date(slots[0].at));
  set($("[data-read=time]"), slot ? long.format(date(slot.at)) : whole);
  set($("[data-read=one]"), count(slot ? slot[one] : sum(one)));
  set($("[data-read=other]"), count(slot ? slot[other] : sum(other)));
}

function open(at) {
  const url = new URL(location.href);
  url.searchParams.delete("range");
  url.searchParams.set("by", "model");
  url.searchParams.set("since", slots[at].at);
  url.searchParams.set("until", slots[at].at);
  location.assign(url);
}

barChart($("[data-chart]"), {
  bars: () =>
    slots.map(slot => ({
      lower: slot[tokens ? one : other],
      upper: slot[tokens ? other : one],
      label: short.format(date(slot.at)),
      unfinished: slot.at === now,
    })),
  ...(tokens && { colours: { lower: "--c-in", upper: "--c-out", unfinished: "--c-out-soft" } }),
  read,
  open: monthly ? null : open,
});
