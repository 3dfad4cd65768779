/* A chart of stacked bars for pages that look back: the lower part on the baseline, the other on top of it. */
(() => {
  "use strict";
  const { number, colour } = window.RouterDash;

  const units = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
  /* A height of the scale: a round number. */
  function height(value) {
    if (value < 10000) return number(value, value % 1 ? 1 : 0);
    const [size, unit] = units.find(([size]) => value >= size);
    return `${number(value / size, value % size ? 1 : 0)} ${unit}`;
  }

  /** `lower` and `upper` are the parts of each bar, `least` the pixels that no lower part is smaller than (but it leaves
   * half of a low bar to the other part, or all of it would look like the lower one), `colours` those of the two and of the upper part of the bar `pale`, which is not over yet. `tick(at)` stands below a bar, where
   * there is room for it only below some of `marks`. `read(at)` is called with the bar that is pointed at, null for none,
   * and `open(at)` with one that is clicked.
   */
  function bars(element, { lower, upper, least = 0, colours, pale, marks, tick, read, open }) {
    let plot = null;
    const count = lower.length;
    const sums = lower.map((value, at) => value + upper[at]);
    const top = Math.max(4, ...sums) * 1.08;
    const size = () => ({ width: Math.max(200, element.clientWidth), height: Math.max(120, element.clientHeight) });
    const smallest = () => (least * top) / Math.max(60, element.clientHeight - 40);
    const splits = plot => {
      const step = Math.ceil((marks.length * 72) / Math.max(200, plot.width - 70));
      return marks.filter((_, at) => at % step === 0);
    };
    const series = () => [
      lower.map((_, at) => at),
      sums,
      lower.map((value, at) => (value ? Math.max(value, upper[at] ? Math.min(smallest(), sums[at] / 2) : smallest()) : null)),
    ];

    function make() {
      plot?.destroy();
      const ink = colour("--ink-3");
      const font = `11px ${getComputedStyle(document.body).fontFamily}`;
      const fills = sums.map((_, at) => colour(at === pale ? colours[2] : colours[1]));
      const paths = extra => uPlot.paths.bars({ size: [0.72, 48], ...extra });
      plot = new uPlot(
        {
          ...size(),
          padding: [4, 18, 0, 0],
          legend: { show: false },
          cursor: { x: true, y: false, points: { show: false }, drag: { x: false, y: false } },
          scales: { x: { time: false, range: () => [-0.6, count - 0.4] }, y: { range: () => [0, top] } },
          axes: [
            { stroke: ink, font, grid: { show: false }, ticks: { show: false }, size: 24, gap: 4, splits, values: (_, at) => at.map(tick) },
            { stroke: ink, font, grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false }, size: 52, gap: 6, space: 44, values: (_, at) => at.map(height) },
          ],
          series: [
            {},
            { fill: colour(colours[1]), width: 0, points: { show: false }, paths: paths({ disp: { fill: { unit: 3, values: () => fills } } }) },
            { fill: colour(colours[0]), width: 0, points: { show: false }, paths: paths({}) },
          ],
          hooks: { setCursor: [it => read(it.cursor.idx ?? null)] },
        },
        series(),
        element,
      );
      if (open) plot.over.addEventListener("click", () => plot.cursor.idx != null && open(plot.cursor.idx));
      plot.over.classList.toggle("u-opens", Boolean(open));
      read(null);
    }

    if (!count) return;
    make();
    document.addEventListener("themechange", make); // a canvas does not follow the theme by itself
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", make);
    new ResizeObserver(() => {
      if (plot.width !== element.clientWidth) plot.setSize(size());
    }).observe(element);
  }

  window.RouterDash.bars = bars;
})();
