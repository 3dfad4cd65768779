/** Texts of figures and times, as metrics/templatetags/figures.py writes them. */

const root = document.documentElement;
export const zone = document.body.dataset.timeZone || undefined;
export const lang = root.lang === "en" ? "en-US" : root.lang;

/** Text of a value that was never measured. */
export const NOTHING = "—";
export const number = (value, digits = 0) =>
  new Intl.NumberFormat(lang, {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  }).format(value);
export const count = value => (value == null ? NOTHING : number(value));
export const speed = value => (value == null ? NOTHING : number(value, value >= 100 ? 0 : 1));
export const duration = value =>
  value == null ? NOTHING : value < 999.5 ? `${number(value)} ms` : `${number(value / 1000, 2)} s`;
export const compact = value => {
  const [size, unit] =
    [
      [1e12, "T"],
      [1e9, "G"],
      [1e6, "M"],
    ].find(([size]) => value >= size) ?? [];
  const short = value / size;
  return size
    ? `${number(short, short < 9.995 ? 2 : short < 99.95 ? 1 : 0)} ${unit}`
    : count(value);
};
const spans =
  lang === "ja"
    ? { 86400: "日", 3600: "時間", 60: "分", 1: "秒" }
    : { 86400: "d", 3600: "h", 60: "min", 1: "s" };
export const span = seconds => {
  if (seconds == null) return NOTHING;
  const size = [86400, 3600, 60].find(size => seconds >= 2 * size) ?? 1;
  return `${number(Math.floor(Math.max(0, seconds) / size))} ${spans[size]}`; // two clocks may differ
};
const percentSign = lang === "ja" ? "%" : " %";
export const rate = (good, total) => {
  if (!total) return NOTHING;
  if (good === total) return `${number(100)}${percentSign}`;
  const percent = (100 * good) / total;
  const digits = percent >= 99 ? 2 : 1;
  const rounded = Math.floor(percent * 10 ** digits) / 10 ** digits; // never 100 after a failure
  return `${number(rounded, digits)}${percentSign}`;
};
export const share = (part, whole) =>
  whole ? `${number(Math.ceil((1000 * part) / whole) / 10, 1)}${percentSign}` : NOTHING; // 0: none
export const day = new Intl.DateTimeFormat(lang, {
  year: "numeric",
  month: "2-digit",
  day: "2-digit",
  timeZone: zone,
});
export const dates = lang === "ja" ? "ja" : "en-GB"; // the day before the month
export const monthDay = new Intl.DateTimeFormat(dates, {
  month: lang === "ja" ? "long" : "short",
  day: "numeric",
  timeZone: zone,
});
/** Today the time, before that the day. */
export const since = moment =>
  (day.format(moment) === day.format(new Date()) ? hourMinute : monthDay).format(moment);
export const clock = new Intl.DateTimeFormat(lang, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hourCycle: "h23",
  timeZone: zone,
});
export const hourMinute = new Intl.DateTimeFormat(lang, {
  hour: "2-digit",
  minute: "2-digit",
  hourCycle: "h23",
  timeZone: zone,
});
