// What is drawn above NiiVue's planes; view.js has the constants and what is shown.
"use strict";

/** Marks above NiiVue's canvas: hatching, lesion, window, crosshair, letters, scale bar. */
function drawMarks(nv, marks) {
  const canvas = byId("drawn"), pen = canvas.getContext("2d");
  canvas.width = nv.canvas.width;
  canvas.height = nv.canvas.height;
  const dots = canvas.width / canvas.clientWidth || 1;
  const wanted = (byId("show-unseen")?.checked ? UNSEEN : 0) | (byId("show-lesion")?.checked ? LESION : 0);
  nv.screenSlices.forEach((tile, number) => {
    if (!(tile.axCorSag in AXES)) return;
    const place = placing(tile);
    if (wanted) drawVoxels(pen, dots, place, marks, voxel(nv)[place.through], wanted);
    if (byId("show-window")?.checked) drawWindow(pen, dots, place, voxel(nv));
    drawCross(pen, dots, place, nv.scene.crosshairPos);
    drawEnds(pen, dots, place);
    if (number === 0) drawScale(pen, dots, place);
  });
}

/** Where voxels of a plane lie on the canvas. */
function placing(tile) {
  const [left, top, width, height] = tile.leftTopWidthHeight;
  const [across, up, through] = AXES[tile.axCorSag];
  const mirrored = tile.fovMM[0] < 0;
  return {
    left, top, width, height, across, up, through,
    x: share => left + width * (mirrored ? 1 - share : share),
    y: share => top + height * (1 - share),
  };
}

function hatching(pen, dots) {
  const tile = document.createElement("canvas"), side = Math.round(8 * dots);
  tile.width = tile.height = side;
  const ink = tile.getContext("2d");
  ink.fillStyle = "rgb(0 0 0 / 45%)";
  ink.fillRect(0, 0, side, side);
  ink.strokeStyle = "rgb(255 255 255 / 55%)";
  ink.lineWidth = dots;
  ink.beginPath();
  for (const shift of [-side, 0, side]) {
    ink.moveTo(shift, side);
    ink.lineTo(shift + side, 0);
  }
  ink.stroke();
  return pen.createPattern(tile, "repeat");
}

function drawVoxels(pen, dots, place, marks, depth, wanted) {
  const n = shown.shape[place.across], m = shown.shape[place.up];
  const step = [1, shown.shape[0], shown.shape[0] * shown.shape[1]];
  const start = depth * step[place.through];
  const marked = (u, v, bit) => u >= 0 && v >= 0 && u < n && v < m
    && (marks[start + u * step[place.across] + v * step[place.up]] & bit & wanted) !== 0;
  const hatched = new Path2D(), outline = new Path2D();
  for (let v = 0; v < m; v++) {
    const high = place.y((v + 1) / m), low = place.y(v / m);
    for (let u = 0, run = 0; u <= n; u++) {
      if (marked(u, v, UNSEEN)) { run++; continue; }
      if (run) hatched.rect(place.x((u - run) / n), high, place.x(u / n) - place.x((u - run) / n), low - high);
      run = 0;
    }
    for (let u = 0; u < n; u++) {
      if (!marked(u, v, LESION)) continue;
      const a = place.x(u / n), b = place.x((u + 1) / n);
      const edge = (other, ...line) => {
        if (marked(...other, LESION)) return;
        outline.moveTo(line[0], line[1]);
        outline.lineTo(line[2], line[3]);
      };
      edge([u - 1, v], a, low, a, high);
      edge([u + 1, v], b, low, b, high);
      edge([u, v - 1], a, low, b, low);
      edge([u, v + 1], a, high, b, high);
    }
  }
  pen.fillStyle = hatching(pen, dots);
  pen.fill(hatched);
  stroke(pen, outline, dots);
}

function stroke(pen, path, dots, dashes = []) {
  pen.setLineDash(dashes);
  for (const [colour, width] of [["#000", 2.5], ["#fff", 1]]) {
    pen.strokeStyle = colour;
    pen.lineWidth = width * dots;
    pen.stroke(path);
  }
}

/** A crosshair that leaves its middle free. */
function drawCross(pen, dots, place, shares) {
  const x = place.x(shares[place.across]), y = place.y(shares[place.up]), gap = 7 * dots;
  const lines = new Path2D();
  lines.moveTo(place.left, y);
  lines.lineTo(Math.max(place.left, x - gap), y);
  lines.moveTo(Math.min(place.left + place.width, x + gap), y);
  lines.lineTo(place.left + place.width, y);
  lines.moveTo(x, place.top);
  lines.lineTo(x, Math.max(place.top, y - gap));
  lines.moveTo(x, Math.min(place.top + place.height, y + gap));
  lines.lineTo(x, place.top + place.height);
  pen.setLineDash([]);
  pen.strokeStyle = "#7dff9a";
  pen.lineWidth = dots;
  pen.stroke(lines);
}

/** Letters at the ends of the axes. */
function drawEnds(pen, dots, place) {
  const { left, top, width, height } = place, margin = 9 * dots;
  const across = ENDS[place.across], up = ENDS[place.up];
  const [first, last] = place.x(0) < place.x(1) ? across : [...across].reverse();
  label(pen, dots, first, left + margin, top + height / 2 + 7 * dots);
  label(pen, dots, last, left + width - margin, top + height / 2 + 7 * dots);
  label(pen, dots, up[1], left + width / 2, top + 17 * dots);
  label(pen, dots, up[0], left + width / 2, top + height - 2 * dots);
}

function label(pen, dots, text, x, y) {
  pen.font = `600 ${13 * dots}px system-ui, sans-serif`;
  pen.textAlign = "center";
  pen.textBaseline = "bottom";
  pen.setLineDash([]);
  pen.strokeStyle = "#000";
  pen.lineWidth = 3 * dots;
  pen.strokeText(text, x, y);
  pen.fillStyle = "#fff";
  pen.fillText(text, x, y);
}

function drawWindow(pen, dots, place, at) {
  const middle = place.left + place.width / 2, bottom = place.top + place.height - 20 * dots;
  if (place.through === 0) {
    if (!inWindow(at)) label(pen, dots, "outside the window of training", middle, bottom);
    return;
  }
  const lines = new Path2D();
  for (const share of shown.window) {
    lines.moveTo(place.x(share), place.top);
    lines.lineTo(place.x(share), place.top + place.height);
  }
  stroke(pen, lines, dots, [6 * dots, 5 * dots]);
}

function drawScale(pen, dots, place) {
  const length = place.width * 50 / extent[place.across];
  const right = place.left + place.width - 8 * dots, y = place.top + place.height - 8 * dots;
  const line = new Path2D();
  line.moveTo(right - length, y);
  line.lineTo(right, y);
  stroke(pen, line, dots);
  label(pen, dots, "50 mm", right - length / 2, y - 3 * dots);
}
