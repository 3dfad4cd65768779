/** Sizes and labels of the bars of a chart, without a canvas. */

import { number } from "./format.js";

const UNITS = [
  [1e12, "T"],
  [1e9, "G"],
  [1e6, "M"],
  [1e3, "k"],
];
const LEAST_TOP = 4; // the scale of a chart with few requests
const HEADROOM = 1.08;

/** Return the label of a height on the scale: short from 10,000 on, none for a fraction. */
export function heightLabel(value) {
  if (!Number.isInteger(value)) return "";
  if (value < 10000) return number(value);
  const [size, unit] = UNITS.find(([size]) => value >= size);
  return `${number(value / size, value % size ? 1 : 0)} ${unit}`;
}

/** Return the upper end of the scale. */
export const scaleTop = bars =>
  Math.max(LEAST_TOP, ...bars.map(bar => bar.lower + bar.upper)) * HEADROOM;

/**
 * Return the height of the lower part of a bar on the scale, null for none.
 *
 * `smallest` is the least height of a lower part on the scale. With `halved`, it leaves half of a low bar to the upper
 * part.
 */
export function lowerHeight({ lower, upper }, smallest, halved) {
  if (!lower) return null;
  return Math.max(lower, halved && upper ? Math.min(smallest, (lower + upper) / 2) : smallest);
}

/**
 * Return the indexes of the bars that get a label: the last bar with a label, and one at least every `labelWidth` of
 * `width` pixels.
 */
export function labelledBars(bars, width, labelWidth) {
  const all = [...bars.keys()].filter(index => bars[index].label);
  const step = Math.ceil((all.length * labelWidth) / width);
  return all.filter((_, at) => (all.length - 1 - at) % step === 0);
}
