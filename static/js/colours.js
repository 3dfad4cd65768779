/** Colours of the present theme and the hatch of failures, for canvases. */

const probe = document.createElement("i");
probe.hidden = true;
document.body.append(probe);

/** Return the value of a colour token. The property itself is `light-dark(…)`, which a canvas does not support. */
export function colour(name) {
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}

/** Return the pattern of failures, which differ from successes also without colour. */
export function hatch() {
  const canvas = document.createElement("canvas");
  const ratio = devicePixelRatio || 1;
  canvas.width = canvas.height = 4 * ratio;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.fillStyle = colour("--surface");
  pen.fillRect(0, 0, 4, 4);
  pen.globalAlpha = 0.45;
  pen.fillStyle = pen.strokeStyle = colour("--c-bad");
  pen.fillRect(0, 0, 4, 4);
  pen.globalAlpha = 1;
  pen.lineWidth = 1.8;
  pen.beginPath();
  for (const from of [-4, 0, 4]) {
    pen.moveTo(from, 4);
    pen.lineTo(from + 4, 0);
  }
  pen.stroke();
  return pen.createPattern(canvas, "repeat");
}
