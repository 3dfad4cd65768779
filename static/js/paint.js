/* What charts are painted with: the colours of the theme as it is now, and a hatch. */
(() => {
  "use strict";
  const probe = document.createElement("i");
  probe.hidden = true;
  document.body.append(probe);
  const colour = name => {
    probe.style.color = `var(${name})`; // a custom property alone would come back as light-dark(…)
    return getComputedStyle(probe).color;
  };

  /* Failures are hatched, too: they are told apart without colours. */
  function hatch() {
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

  Object.assign(window.RouterDash, { colour, hatch });
})();
