/* The requests of each hour as bars. The pages are complete without it. */
(() => {
  "use strict";
  const { $, set, dates, zone, count, bars } = window.RouterDash;
  const slots = JSON.parse($("#slots").textContent);

  const at = slot => new Date(`${slot.hour}Z`);
  const days = slots.length > 24;
  const long = new Intl.DateTimeFormat(dates, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone: zone });
  const short = new Intl.DateTimeFormat(dates, days ? { month: "short", day: "numeric", timeZone: zone } : { hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone: zone });

  const hour = new Intl.DateTimeFormat("en", { hour: "numeric", hourCycle: "h23", timeZone: zone });
  const midnight = number => hour.format(at(slots[number])) === "00" || hour.format(at(slots[number])) === "0";
  const sum = name => slots.reduce((total, slot) => total + slot[name], 0);

  function read(number) {
    const slot = number == null ? null : slots[number];
    const of = name => (slot ? slot[name] : sum(name));
    set($("[data-read=time]"), slot ? long.format(at(slot)) : `${short.format(at(slots[0]))}–${short.format(at(slots[slots.length - 1]))}`);
    set($("[data-read=good]"), count(of("request_count") - of("failed_count")));
    set($("[data-read=failed]"), count(of("failed_count")));
    set($("[data-read=clients]"), count(slot ? slot.unique_ips : Number($("[data-clients]")?.dataset.clients))); // those of many hours do not add up
  }

  bars($("[data-chart]"), {
    lower: slots.map(slot => slot.failed_count),
    upper: slots.map(slot => slot.request_count - slot.failed_count),
    colours: ["--c-bad", "--c-ok", "--c-ok-soft"],
    least: days ? 0 : 2, // in so few bars, no failure is too small to see
    pale: slots.length - 1,
    marks: [...slots.keys()].filter(number => !days || midnight(number)),
    tick: number => short.format(at(slots[number])),
    read,
  });
})();
