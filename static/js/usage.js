/* The usage over time as bars. The page is complete without it. */
(() => {
  "use strict";
  const { $, set, dates, count, bars } = window.RouterDash;
  const { slots, measure, now, monthly } = JSON.parse($("#series").textContent);

  // Days are the server's: their dates are names, to be written in no zone but UTC.
  const date = at => new Date(`${at}${monthly ? "-01" : ""}T00:00:00Z`);
  const long = new Intl.DateTimeFormat(dates, monthly ? { year: "numeric", month: "long", timeZone: "UTC" } : { year: "numeric", month: "short", day: "numeric", timeZone: "UTC" });
  const short = new Intl.DateTimeFormat(dates, monthly ? { year: "2-digit", month: "short", timeZone: "UTC" } : { month: "short", day: "numeric", timeZone: "UTC" });

  const tokens = measure === "tokens";
  const one = tokens ? "input_tokens" : "successful_requests";
  const other = tokens ? "output_tokens" : "failed_requests";
  const sum = name => slots.reduce((total, slot) => total + slot[name], 0);

  function read(at) {
    const slot = at == null ? null : slots[at];
    const whole = slots.length > 1 ? `${short.format(date(slots[0].at))}–${short.format(date(slots[slots.length - 1].at))}` : long.format(date(slots[0].at));
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

  const values = name => slots.map(slot => slot[name]);
  bars($("[data-chart]"), {
    lower: values(tokens ? one : other),
    upper: values(tokens ? other : one),
    colours: tokens ? ["--c-in", "--c-out", "--c-out-soft"] : ["--c-bad", "--c-ok", "--c-ok-soft"],
    pale: slots.findIndex(slot => slot.at === now),
    marks: [...slots.keys()],
    tick: at => short.format(date(slots[at].at)),
    read,
    open: monthly ? null : open,
  });
})();
