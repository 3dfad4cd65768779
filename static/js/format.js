/* How figures and times are written on every page, as metrics/templatetags/figures.py writes them. */
(() => {
  "use strict";
  const root = document.documentElement;
  const zone = document.body.dataset.timeZone || undefined;
  const lang = root.lang === "en" ? "en-US" : root.lang;

  const NOTHING = "—";
  const number = (value, digits = 0) =>
    new Intl.NumberFormat(lang, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
  const count = value => (value == null ? NOTHING : number(value));
  const speed = value => (value == null ? NOTHING : number(value, value >= 100 ? 0 : 1));
  const duration = value =>
    value == null ? NOTHING : value < 1000 ? `${number(value)} ms` : `${number(value / 1000, 2)} s`;
  const span = seconds => {
    if (seconds == null) return NOTHING;
    const [size, unit] = [[3600, "h"], [60, "min"]].find(([size]) => seconds >= 2 * size) ?? [1, "s"];
    return `${number(Math.floor(seconds / size))} ${unit}`;
  };
  const rate = (good, total) => {
    if (!total) return NOTHING;
    if (good === total) return `${number(100)} %`;
    const percent = (100 * good) / total;
    const digits = percent >= 99 ? 2 : 1;
    return `${number(Math.floor(percent * 10 ** digits) / 10 ** digits, digits)} %`; // never 100 while anything failed
  };
  const clock = new Intl.DateTimeFormat(lang, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZone: zone });
  const hourMinute = new Intl.DateTimeFormat(lang, { hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone: zone });
  window.RouterDash = {
    $: (selector, from = document) => from.querySelector(selector),
    $$: (selector, from = document) => [...from.querySelectorAll(selector)],
    /** Text into an element, only where it differs, so that nothing is selected or announced anew. */
    set(element, text) {
      if (element && element.textContent !== text) element.textContent = text;
    },
    /** The children of a <template>, by what `key` says of each. */
    forms(selector, key) {
      const template = document.querySelector(selector);
      return Object.fromEntries([...(template?.content.children ?? [])].map(it => [key(it), it]));
    },
    lang,
    zone,
    NOTHING,
    number,
    count,
    speed,
    duration,
    span,
    rate,
    clock,
    hourMinute,
  };
})();
