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
  const compact = value => {
    const [size, unit] = [[1e12, "T"], [1e9, "G"], [1e6, "M"]].find(([size]) => value >= size) ?? [];
    const short = value / size;
    return size ? `${number(short, short < 9.995 ? 2 : short < 99.95 ? 1 : 0)} ${unit}` : count(value);
  };
  const spans = lang === "ja" ? { 86400: "日", 3600: "時間", 60: "分", 1: "秒" } : { 86400: "d", 3600: "h", 60: "min", 1: "s" };
  const span = seconds => {
    if (seconds == null) return NOTHING;
    const size = [86400, 3600, 60].find(size => seconds >= 2 * size) ?? 1;
    return `${number(Math.floor(Math.max(0, seconds) / size))} ${spans[size]}`; // two clocks may differ
  };
  const rate = (good, total) => {
    if (!total) return NOTHING;
    if (good === total) return `${number(100)} %`;
    const percent = (100 * good) / total;
    const digits = percent >= 99 ? 2 : 1;
    return `${number(Math.floor(percent * 10 ** digits) / 10 ** digits, digits)} %`; // never 100 while anything failed
  };
  const share = (part, whole) => (whole ? `${number(Math.ceil((1000 * part) / whole) / 10, 1)} %` : NOTHING); // 0: none
  const day = new Intl.DateTimeFormat(lang, { year: "numeric", month: "2-digit", day: "2-digit", timeZone: zone });
  const dates = lang === "ja" ? "ja" : "en-GB"; // the day before the month
  const monthDay = new Intl.DateTimeFormat(dates, { month: lang === "ja" ? "long" : "short", day: "numeric", timeZone: zone });
  /** Today the time, before that the day. */
  const since = moment => (day.format(moment) === day.format(new Date()) ? hourMinute : monthDay).format(moment);
  const clock = new Intl.DateTimeFormat(lang, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZone: zone });
  const hourMinute = new Intl.DateTimeFormat(lang, { hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone: zone });
  /** For what a script sends. A login in another tab changes it, so the cookie knows it, not the page. */
  const cookie = name => new RegExp(`(?:^|; )${name}=([^;]*)`).exec(document.cookie)?.[1];
  const token = () => cookie("__Host-routerdash_csrf") ?? cookie("routerdash_csrf") ?? "";

  window.RouterDash = {
    token,
    $: (selector, from = document) => from.querySelector(selector),
    $$: (selector, from = document) => [...from.querySelectorAll(selector)],
    /** Text into an element, only where it differs, so that nothing is selected or announced anew. */
    set(element, text) {
      if (element && element.textContent !== text) element.textContent = text;
    },
    /** A figure and its unit, small and grey. */
    setUnits(element, text) {
      const [figure, unit] = text.split(" ");
      if (element.textContent === figure + (unit ?? "")) return;
      element.textContent = figure;
      if (!unit) return;
      const small = document.createElement("span");
      small.className = "unit";
      small.textContent = unit;
      element.append(small);
    },
    /** The children of a <template>, by what `key` says of each. */
    forms(selector, key) {
      const template = document.querySelector(selector);
      return Object.fromEntries([...(template?.content.children ?? [])].map(it => [key(it), it]));
    },
    lang,
    dates,
    zone,
    NOTHING,
    number,
    count,
    speed,
    compact,
    duration,
    span,
    rate,
    share,
    since,
    clock,
    hourMinute,
  };
})();
