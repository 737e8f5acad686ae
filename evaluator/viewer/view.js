"use strict";

const AXIAL = 0, CORONAL = 1, SAGITTAL = 2, THREE = 3;
const ROW = 3, GRID = 2;
// Axes (0 right, 1 anterior, 2 superior) across, up and through each plane.
const AXES = { [AXIAL]: [0, 1, 2], [CORONAL]: [0, 2, 1], [SAGITTAL]: [1, 2, 0] };
const ENDS = [["L", "R"], ["P", "A"], ["I", "S"]];
const UNSEEN = 1, LESION = 2;
const NARROW = 700, LEAST = 64;

const byId = id => document.getElementById(id);
const shown = JSON.parse(byId("shown").textContent);
const extent = shown.shape.map((n, axis) => n * shown.zooms[axis]);

/** The bytes that the page holds under a name; the text is dropped. */
async function inflated(name) {
  const holder = byId(`data-${name}`);
  const packed = Uint8Array.from(atob(holder.textContent), letter => letter.charCodeAt(0));
  holder.remove();
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

/** A number with as many digits as a step of the anomaly map warrants. */
function number(value, step = shown.limit / 127) {
  const digits = Math.max(0, Math.min(6, Math.ceil(-Math.log10(step))));
  return value.toFixed(digits).replace(/^-/, "\u2212");
}

function colourMap(stops) {
  const channel = which => stops.map(stop => stop[which]);
  const last = stops.length - 1;
  return {
    R: [0, ...channel(0)], G: [0, ...channel(1)], B: [0, ...channel(2)],
    // An anomaly of exactly 0 is transparent.
    A: [0, ...stops.map(() => 255)],
    I: [0, ...stops.map((_, place) => Math.max(1, Math.round(255 * place / last)))],
  };
}

/** Colour of a share of the limit, 0 to 1, as the map of these stops shows it. */
function colourOf(stops, share) {
  const place = share * (stops.length - 1), left = Math.min(Math.floor(place), stops.length - 2);
  const mix = stops[left].map((low, c) => low + (place - left) * (stops[left + 1][c] - low));
  return `rgb(${mix.map(Math.round).join(" ")})`;
}

function voxel(nv) {
  return Array.from(nv.scene.crosshairPos, (share, axis) =>
    Math.max(0, Math.min(shown.shape[axis] - 1, Math.floor(share * shown.shape[axis]))));
}

function index([x, y, z]) {
  return x + shown.shape[0] * (y + shown.shape[1] * z);
}

function millimetres(at) {
  return shown.affine.slice(0, 3).map(row => row[0] * at[0] + row[1] * at[1] + row[2] * at[2] + row[3]);
}

/** The scan's coordinates: x grows to the right, y to the front, z upwards. */
function asPlaces(at) {
  return millimetres(at).map((mm, axis) => `${"xyz"[axis]} ${number(mm, 0.1)}`);
}

/** Move the crosshair to a voxel, kept inside the volume. */
function moveTo(nv, at) {
  at.forEach((place, axis) => {
    const n = shown.shape[axis];
    nv.scene.crosshairPos[axis] = (Math.max(0, Math.min(n - 1, place)) + 0.5) / n;
  });
  nv.drawScene();
}

function inWindow(at) {
  const share = (at[0] + 0.5) / shown.shape[0];
  return share >= shown.window[0] && share < shown.window[1];
}

/** Values at the crosshair, and the sliders of its place. */
function report(nv, values, marks) {
  const at = voxel(nv), where = index(at), step = shown.limit / 127;
  const anomaly = Math.abs(values.anomaly[where]) < step / 2 ? 0 : values.anomaly[where];
  const beyond = Math.abs(anomaly) >= shown.limit * (1 - 1e-6) ? (anomaly < 0 ? "\u2264 " : "\u2265 ") : "";
  const unseen = (marks[where] & UNSEEN) !== 0;
  const sense = anomaly > 0 ? "brighter" : "darker";
  const parts = [
    `${asPlaces(at).join(", ")} mm`,
    `scan ${number(values.scan[where], (shown.levels[1] - shown.levels[0]) / 255)}`,
    unseen ? "anomaly unknown: never seen by the model"
      : `anomaly ${beyond}${anomaly > 0 ? "+" : ""}${number(anomaly)}${anomaly ? ` (${sense} than expected)` : ""}`,
    ...byId("show-window") ? [inWindow(at) ? "in the window of training" : "outside the window of training"] : [],
  ];
  byId("readout").replaceChildren(...parts.map((text, part) => {
    const span = document.createElement("span");
    span.textContent = text;
    if ((part === 2 && unseen) || (part === 3 && !inWindow(at))) span.className = "caution";
    return span;
  }));
  const places = asPlaces(at);
  ["x", "y", "z"].forEach((name, axis) => {
    byId(name).value = at[axis];
    byId(`${name}-value`).textContent = `${places[axis]} mm`;
    byId(name).setAttribute("aria-valuetext", `${places[axis]} mm`);
  });
}

/** Threshold, opacity and sign on the overlay and its colour bar. */
function applyOverlay(nv) {
  const overlay = nv.volumes[1], sign = byId("sign").value;
  const threshold = byId("threshold").value * shown.limit / 127;
  overlay.colormap = sign === "dark" ? "nothing" : "bright";
  overlay.colormapNegative = sign === "bright" ? "" : "dark";
  // After the colours, whose change sets these to the volume's own extremes.
  overlay.cal_min = threshold;
  overlay.cal_max = shown.limit;
  overlay.opacity = byId("opacity").value / 100;
  nv.updateGLVolume();
  byId("threshold-value").textContent = number(threshold);
  byId("threshold").setAttribute("aria-valuetext", number(threshold));
  byId("opacity-value").textContent = `${byId("opacity").value} %`;
  const bar = byId("bar"), pen = bar.getContext("2d");
  for (let x = 0; x < bar.width; x++) {
    const share = 2 * (x + 0.5) / bar.width - 1, size = Math.abs(share);
    const hidden = size * shown.limit < threshold || sign === (share < 0 ? "bright" : "dark");
    pen.fillStyle = hidden ? "#444" : colourOf(share < 0 ? shown.dark : shown.bright, size);
    pen.fillRect(x, 0, 1, bar.height);
  }
}

function isNarrow() {
  return document.documentElement.clientWidth < NARROW;
}

/** Give the stage the shape of the planes that are chosen. */
function shapeStage() {
  const chosen = Number(byId("layout").value), narrow = isNarrow(), [right, front, up] = extent;
  const sizes = {
    [AXIAL]: [right, front], [CORONAL]: [right, up], [SAGITTAL]: [front, up],
    [THREE]: narrow ? [right + front, up + front] : [right + front + right, Math.max(up, front)],
  };
  const [width, height] = sizes[chosen];
  byId("stage").style.aspectRatio = `${width} / ${height}`;
  byId("stage").style.maxWidth = `calc(max(15rem, 78vh) * ${(width / height).toFixed(4)})`;
}

function applyLayout(nv) {
  shapeStage();
  nv.opts.multiplanarLayout = isNarrow() ? GRID : ROW;
  nv.opts.isRadiologicalConvention = byId("side").value === "radiological";
  nv.setSliceType(Number(byId("layout").value));
}

/** At most one call a frame, however many events there are. */
function onceAFrame(act) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; act(); });
  };
}

function connect(nv) {
  const overlay = onceAFrame(() => applyOverlay(nv)), layout = onceAFrame(() => applyLayout(nv));
  for (const name of ["threshold", "opacity", "sign"]) byId(name).addEventListener("input", overlay);
  for (const name of ["layout", "side"]) byId(name).addEventListener("input", layout);
  for (const name of ["show-window", "show-unseen", "show-lesion"])
    byId(name)?.addEventListener("input", () => nv.drawScene());
  addEventListener("resize", layout);
  ["x", "y", "z"].forEach((name, axis) => byId(name).addEventListener("input", () => {
    const at = voxel(nv);
    at[axis] = Number(byId(name).value);
    moveTo(nv, at);
  }));
  byId("start").addEventListener("click", () => moveTo(nv, shown.place));
  const steps = {
    ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowUp: [0, 0, 1], ArrowDown: [0, 0, -1],
    PageUp: [0, 1, 0], PageDown: [0, -1, 0],
  };
  // Before NiiVue, whose own keys switch to views that this page does not have.
  for (const kind of ["keydown", "keyup"]) byId("stage").addEventListener(kind, event => {
    if (event.key !== "Tab") event.stopPropagation();
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    const side = byId("side").value === "radiological" ? [-1, 1, 1] : [1, 1, 1];
    if (kind === "keydown") moveTo(nv, voxel(nv).map((place, axis) => place + step[axis] * side[axis]));
  }, true);
}

function prepareControls() {
  const threshold = byId("threshold");
  Object.assign(threshold, { min: 0, max: 127, step: 0.5 });
  threshold.value = shown.threshold * 127 / shown.limit;
  ["x", "y", "z"].forEach((name, axis) => Object.assign(byId(name), { min: 0, max: shown.shape[axis] - 1, step: 1 }));
  const [left, , right] = byId("ticks").children;
  left.textContent = number(-shown.limit);
  right.textContent = `+${number(shown.limit)}`;
  document.querySelector(".limit").textContent = number(shown.limit);
}

/** NiiVue on the canvas with scan and overlay. */
async function openViewer(files) {
  const { Niivue, NVImage } = globalThis.niivue;
  const nv = new Niivue({
    logLevel: "error", backColor: [0, 0, 0, 1], crosshairWidth: 0, dragMode: 0,
    dragAndDropEnabled: false, multiplanarShowRender: 0, multiplanarPadPixels: 4,
    isOrientationTextVisible: false,
  });
  await nv.attachToCanvas(byId("planes"), false);
  // The stage around it is what the keyboard reaches.
  byId("planes").tabIndex = -1;
  nv.addColormap("bright", colourMap(shown.bright));
  nv.addColormap("dark", colourMap(shown.dark));
  nv.addColormap("nothing", { R: [0, 0], G: [0, 0], B: [0, 0], A: [0, 0], I: [0, 255] });
  const scan = await NVImage.new(files.scan, "scan.nii", "gray", 1, null, ...shown.levels);
  const overlay = await NVImage.new(
    files.anomaly, "anomaly.nii", "bright", 0.8, null, shown.threshold, shown.limit);
  overlay.colormapNegative = "dark";
  overlay.colormapType = 2; // Colours from 0 to the limit, transparent below the threshold.
  nv.addVolume(scan);
  nv.addVolume(overlay);
  return nv;
}

function scaled(buffer) {
  const header = new DataView(buffer);
  const slope = header.getFloat32(112, true), inter = header.getFloat32(116, true);
  const stored = new Uint8Array(buffer, header.getFloat32(108, true));
  return Float32Array.from(stored, value => value * slope + inter);
}

async function main() {
  const code = document.createElement("script");
  code.textContent = new TextDecoder().decode(await inflated("niivue"));
  document.head.append(code);
  const files = { scan: await inflated("scan"), anomaly: await inflated("anomaly") };
  const marks = new Uint8Array(await inflated("marks"));
  const values = { scan: scaled(files.scan), anomaly: scaled(files.anomaly) };
  prepareControls();
  // NiiVue must not draw into a stage without height.
  shapeStage();
  const nv = await openViewer(files);
  const draw = nv.drawScene.bind(nv);
  nv.drawScene = () => {
    // While a page is laid out anew the canvas may have no room, of which WebGL complains.
    if (Math.min(nv.canvas.width, nv.canvas.height) < LEAST) return;
    draw();
    drawMarks(nv, marks);
    report(nv, values, marks);
  };
  connect(nv);
  applyLayout(nv);
  applyOverlay(nv);
  moveTo(nv, shown.place);
  byId("state").textContent = "";
  document.documentElement.dataset.ready = "yes";
}

main().catch(error => {
  byId("state").textContent = "This browser cannot show the volumes (it needs WebGL 2 and DecompressionStream; "
    + `see the picture beside this page): ${error.message}`;
  document.documentElement.dataset.ready = "failed";
});
