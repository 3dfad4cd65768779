/** Chart of the requests of each hour, on the pages of clients. */

import { barChart } from "./bars.js";
import { $, set } from "./dom.js";
import { count, dates, zone } from "./format.js";

const slots = JSON.parse($("#slots").textContent);

const at = slot => new Date(`${slot.hour}Z`);
const days = slots.length > 24;
const long = new Intl.DateTimeFormat(dates, {
  month: "short",
  day: "numeric",
  hour: "2-digit",
  minute: "2-digit",
  hourCycle: "h23",
  timeZone: zone,
});
const short = new Intl.DateTimeFormat(
  dates,
  days
    ? { month: "short", day: "numeric", timeZone: zone }
    : { hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone: zone },
);

const hour = new Intl.DateTimeFormat("en", { hour: "numeric", hourCycle: "h23", timeZone: zone });
const isMidnight = slot => ["0", "00"].includes(hour.format(at(slot)));
const sum = name => slots.reduce((total, slot) => total + slot[name], 0);

function read(index) {
  const slot = index == null ? null : slots[index];
  const value = name => (slot ? slot[name] : sum(name));
  set(
    $("[data-read=time]"),
    slot
      ? long.format(at(slot))
      : `${short.format(at(slots[0]))}–${short.format(at(slots[slots.length - 1]))}`,
  );
  set($("[data-read=good]"), count(value("request_count") - value("failed_count")));
  set($("[data-read=failed]"), count(value("failed_count")));
  set(
    $("[data-read=clients]"),
    count(slot ? slot.unique_ips : Number($("[data-clients]")?.dataset.clients)),
  ); // clients of several hours do not add up
}

barChart($("[data-chart]"), {
  bars: () =>
    slots.map((slot, index) => ({
      lower: slot.failed_count,
      upper: slot.request_count - slot.failed_count,
      label: !days || isMidnight(slot) ? short.format(at(slot)) : "",
      unfinished: index === slots.length - 1,
    })),
  least: days ? 0 : 2, // in so few bars, no failure is too small to see
  halved: true,
  read,
});
