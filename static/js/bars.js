/** Bar chart of all pages: a lower part on the baseline, an upper part on top of it. */

import { heightLabel, labelledBars, lowerHeight, scaleTop } from "./bar_geometry.js";
import { colour, hatch } from "./colours.js";

const FAILURES = { lower: "--c-bad", upper: "--c-ok", unfinished: "--c-ok-soft" };

/**
 * Draw a bar chart into an element. Return a function that draws it again after its data have changed.
 *
 * `bars()` returns the bars. Each has the numbers `lower` and `upper`, `unfinished` if it still grows, and a `label` if
 * a label may stand below it. There is a label at least every `labelWidth` pixels, and always at the last bar.
 * `colours` are tokens; `hatched` hatches the lower part. `least` is its smallest height in pixels; with `halved` it
 * leaves half of a low bar to the upper part. `read(index)` runs for the bar under the pointer, with null for none;
 * `open(index)` runs for a bar that is clicked, and `drawn(plot)` after each drawing.
 */
export function barChart(element, options) {
  const { bars, colours = FAILURES, hatched = false, least = 0, halved = false } = options;
  const { labelWidth = 72, read, open, drawn } = options;
  let data = bars();
  let plot = null;
  const top = () => scaleTop(data);
  const size = () => ({
    width: Math.max(200, element.clientWidth),
    height: Math.max(120, element.clientHeight),
  });

  const smallest = () => (least * top()) / Math.max(60, element.clientHeight - 40);
  const series = () => [
    data.map((_, index) => index),
    data.map(bar => bar.lower + bar.upper),
    data.map(bar => lowerHeight(bar, smallest(), halved)),
  ];
  const labelled = plot => labelledBars(data, Math.max(200, plot.width - 70), labelWidth);
  const pointed = () => plot.cursor.idx ?? null;

  function draw() {
    plot?.destroy();
    const axis = {
      stroke: colour("--ink-3"),
      font: `11px ${getComputedStyle(document.body).fontFamily}`,
      ticks: { show: false },
    };
    const [finished, unfinished] = [colour(colours.upper), colour(colours.unfinished)];
    const fills = () => data.map(bar => (bar.unfinished ? unfinished : finished));
    const paths = more => uPlot.paths.bars({ size: [0.7, 44], ...more });
    plot = new uPlot(
      {
        ...size(),
        padding: [4, 18, 0, 0],
        legend: { show: false },
        cursor: { x: true, y: false, points: { show: false }, drag: { x: false, y: false } },
        scales: {
          x: { time: false, range: () => [-0.6, data.length - 0.4] },
          y: { range: () => [0, top()] },
        },
        axes: [
          {
            ...axis,
            grid: { show: false },
            size: 24,
            gap: 4,
            splits: labelled,
            values: (_, indexes) => indexes.map(index => data[index]?.label ?? ""),
          },
          {
            ...axis,
            grid: { stroke: colour("--grid"), width: 1 },
            size: 52,
            gap: 6,
            space: 44,
            values: (_, heights) => heights.map(heightLabel),
          },
        ],
        series: [
          {},
          {
            fill: finished,
            width: 0,
            points: { show: false },
            paths: paths({ disp: { fill: { unit: 3, values: fills } } }),
          },
          {
            fill: hatched ? hatch : colour(colours.lower),
            stroke: colour("--surface"),
            width: hatched ? 1 : 0,
            points: { show: false },
            paths: paths(),
          },
        ],
        hooks: { setCursor: [() => plot && read(pointed())], draw: drawn ? [drawn] : [] },
      },
      series(),
      element,
    );
    if (open) plot.over.addEventListener("click", () => pointed() !== null && open(pointed()));
    plot.over.classList.toggle("u-opens", Boolean(open));
    read(null);
  }

  function update() {
    data = bars();
    plot.setData(series());
    read(pointed());
  }

  if (!data.length) return () => {};
  draw();
  // A canvas does not follow the theme.
  document.addEventListener("themechange", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  new ResizeObserver(() => {
    const { width, height } = size();
    if (plot.width !== width || plot.height !== height) plot.setSize({ width, height });
  }).observe(element);
  return update;
}
