"use strict";
// Draws what the page's data says and lets one trial be chosen, everywhere at once. Positions are 0 to FINE.
const data = JSON.parse(document.getElementById("data").textContent);
const FINE = 1000, SURE = 31, NARROW = 640;
const COLORS = [[0, 114, 178], [230, 159, 0], [0, 158, 115], [204, 121, 167], [86, 180, 233], [213, 94, 0], [240, 228, 66], [120, 120, 120]];
const rowOf = new Map(data.trials.map((trial, row) => [trial, row]));
let chosen = data.best;

function svg(name, attributes, parent, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

function canvasOf(id, height) {
  const place = document.getElementById(id);
  const width = Math.max(260, Math.floor(place.clientWidth));
  const root = svg("svg", {viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": id});
  place.replaceChildren(root);
  return {root, width, height};
}

// Many lines are drawn fainter than few.
function linesOf(good) {
  const count = data.good.filter(is => is === good).length;
  const opacity = good ? Math.max(0.2, Math.min(0.75, 25 / count)) : Math.max(0.05, Math.min(0.4, 60 / count));
  return {class: good ? "lines good" : "lines", "stroke-opacity": opacity.toFixed(3)};
}

// A path through points of which some are missing: [[x, y] or null, ...].
function through(points) {
  let path = "", pen = "M";
  for (const point of points) {
    if (point === null) { pen = "M"; continue; }
    path += `${pen}${point[0].toFixed(1)} ${point[1].toFixed(1)}`;
    pen = "L";
  }
  return path;
}

function pointerIn(root, event) {
  const box = root.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

// The trial whose line passes closest; `lines` has one list of points a row.
function closest(lines, along, across, pointer) {
  let best = null, least = Infinity;
  lines.forEach((points, row) => {
    for (let i = 0; i + 1 < points.length; i++) {
      const a = points[i], b = points[i + 1];
      if (!a || !b) continue;
      const share = (pointer[along] - a[along]) / (b[along] - a[along]);
      if (share < -0.02 || share > 1.02) continue;
      const off = Math.abs(a[across] + share * (b[across] - a[across]) - pointer[across]);
      if (off < least) { least = off; best = row; }
    }
  });
  return best === null ? null : data.trials[best];
}

function words(name, most) {
  const lines = [""];
  for (const word of name.split(" ")) {
    const last = lines[lines.length - 1];
    if (last && (last + " " + word).length > most) lines.push(word);
    else lines[lines.length - 1] = last ? last + " " + word : word;
  }
  return lines;
}

// Parallel coordinates: axes stand side by side on wide screens and lie below each other on narrow ones.
function drawParallel() {
  const axes = data.axes;
  const narrow = document.getElementById("parallel").clientWidth < NARROW;
  const {root, width, height} = canvasOf("parallel", narrow ? 76 * axes.length : 400);
  const count = Math.max(1, axes.length - 1);
  const place = (i, at) => narrow
    ? [22 + at / FINE * (width - 56), 38 + i * 76]
    : [70 + i * (width - 150) / count, height - 24 - at / FINE * (height - 84)];
  const lines = data.trials.map((_, row) => axes.map((axis, i) => axis.at[row] === null ? null : place(i, axis.at[row])));
  for (const good of [0, 1]) {
    const group = svg("g", linesOf(good), root);
    lines.forEach((points, row) => { if (data.good[row] === good) svg("path", {d: through(points)}, group); });
  }
  const highlight = svg("path", {class: "line chosen"}, root);
  axes.forEach((axis, i) => {
    const [x0, y0] = place(i, 0), [x1, y1] = place(i, FINE);
    svg("line", {x1: x0, y1: y0, x2: x1, y2: y1, class: "axis"}, root);
    if (narrow) svg("text", {x: 14, y: y0 - 16, class: "name halo"}, root, axis.name);
    else {
      const parts = words(axis.name, 12);
      parts.forEach((part, k) => svg("text", {x: x0, y: y1 - 14 - 16 * (parts.length - 1 - k), class: "name middle"}, root, part));
    }
    let last = -Infinity;
    for (const [at, label] of axis.ticks) {
      const [x, y] = place(i, at);
      const room = narrow ? x - label.length * 3.6 : Infinity;
      if (narrow && room < last + 6) continue;
      last = narrow ? x + label.length * 3.6 : last;
      svg("line", narrow ? {x1: x, y1: y - 4, x2: x, y2: y + 4, class: "axis"} : {x1: x - 4, y1: y, x2: x + 4, y2: y, class: "axis"}, root);
      if (narrow) svg("text", {x: Math.max(8 + label.length * 3.6, Math.min(x, width - 8 - label.length * 3.6)), y: y + 18, class: "tick halo middle"}, root, label);
      else svg("text", {x: x + 8, y: y + 4, class: "tick halo"}, root, label);
    }
  });
  root.addEventListener("click", event => {
    const trial = closest(lines, narrow ? 1 : 0, narrow ? 0 : 1, pointerIn(root, event));
    if (trial !== null) choose(trial);
  });
  return () => highlight.setAttribute("d", through(lines[rowOf.get(chosen)]));
}

// Axes with marks and names around a frame; returns the places of positions.
function frame(root, width, height, xTicks, yTicks, xName, yName, grid) {
  const left = 62, right = 14, top = 12, bottom = 46;
  const x = at => left + at / FINE * (width - left - right);
  const y = at => height - bottom - at / FINE * (height - top - bottom);
  for (const [at, label] of yTicks) {
    svg("line", grid ? {x1: left, x2: width - right, y1: y(at), y2: y(at), class: "grid"} : {x1: left - 5, x2: left, y1: y(at), y2: y(at), class: "axis"}, root);
    svg("text", {x: left - 7, y: y(at) + 4, class: "tick end"}, root, label);
  }
  let last = -Infinity;
  for (const [at, label] of xTicks) {
    svg("line", {x1: x(at), x2: x(at), y1: height - bottom, y2: height - bottom + 5, class: "axis"}, root);
    if (x(at) - label.length * 4 < last) continue;
    last = x(at) + label.length * 4 + 6;
    svg("text", {x: x(at), y: height - bottom + 19, class: "tick middle"}, root, label);
  }
  svg("rect", {x: left, y: top, width: width - left - right, height: height - top - bottom, class: "frame"}, root);
  svg("text", {x: (left + width - right) / 2, y: height - 8, class: "name middle"}, root, xName);
  const middle = (top + height - bottom) / 2;
  svg("text", {x: 14, y: middle, class: "name middle", transform: `rotate(-90 14 ${middle})`}, root, yName);
  return {x, y, left, top, inner: [width - left - right, height - top - bottom]};
}

function drawCurves() {
  const {root, width, height} = canvasOf("curves", 380);
  const curves = data.curves;
  const {x, y, left, top, inner} = frame(root, width, height, curves.xTicks, curves.yTicks, "epoch", curves.log ? "loss (log scale)" : "loss", true);
  const clip = svg("clipPath", {id: "inside"}, svg("defs", {}, root));
  svg("rect", {x: left, y: top, width: inner[0], height: inner[1]}, clip);
  const points = curve => curve.map((at, i) => at === null ? null : [x(curves.x[i]), y(at)]);
  const held = curves.validation.some(curve => curve.some(at => at !== null));
  const behind = (held ? curves.validation : curves.train).map(points);
  const inside = svg("g", {"clip-path": "url(#inside)"}, root);
  for (const good of [0, 1]) {
    const group = svg("g", linesOf(good), inside);
    behind.forEach((line, row) => { if (data.good[row] === good) svg("path", {d: through(line)}, group); });
  }
  const validation = svg("path", {class: "line chosen"}, inside);
  const train = svg("path", {class: "line chosen dashed"}, inside);
  root.addEventListener("click", event => {
    const trial = closest(behind, 0, 1, pointerIn(root, event));
    if (trial !== null) choose(trial);
  });
  return () => {
    const row = rowOf.get(chosen);
    validation.setAttribute("d", through(points(curves.validation[row])));
    train.setAttribute("d", through(points(curves.train[row])));
  };
}

// A byte a cell as pixels: the class's colour, the paler the less sure, white on the boundary.
function picture(cells, size) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = size;
  const context = canvas.getContext("2d");
  const image = context.createImageData(size, size);
  const bytes = atob(cells);
  for (let i = 0; i < bytes.length; i++) {
    const code = bytes.charCodeAt(i), color = COLORS[code >> 5], sure = (code & SURE) / SURE;
    const pixel = 4 * ((size - 1 - Math.floor(i / size)) * size + i % size);
    for (let k = 0; k < 3; k++) image.data[pixel + k] = 255 - 0.62 * sure * (255 - color[k]);
    image.data[pixel + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  return canvas.toDataURL();
}

const SHAPES = [
  "M-4 0A4 4 0 1 0 4 0A4 4 0 1 0 -4 0z", "M0 -5L4.6 3.6L-4.6 3.6z", "M-3.7 -3.7H3.7V3.7H-3.7z", "M0 -5L5 0L0 5L-5 0z",
  "M0 5L4.6 -3.6L-4.6 -3.6z", "M-1.6 -5H1.6V-1.6H5V1.6H1.6V5H-1.6V1.6H-5V-1.6H-1.6z",
];

function drawPlane() {
  const plane = data.plane;
  if (!plane) return () => {};
  const legend = plane.kinds.length ? 26 * Math.ceil(plane.kinds.length / 3) : 0;
  const {root, width, height} = canvasOf("plane", 380 + legend);
  const {x, y, left, top, inner} = frame(root, width, height - legend, plane.xTicks, plane.yTicks, plane.names[0], plane.names[1], false);
  const image = svg("image", {x: left, y: top, width: inner[0], height: inner[1], preserveAspectRatio: "none"});
  root.prepend(image);
  const dots = svg("g", {}, root);
  const dot = (px, py, kind) => svg("path", {d: SHAPES[kind % SHAPES.length], transform: `translate(${px.toFixed(1)} ${py.toFixed(1)})`,
    class: "dot", fill: `rgb(${COLORS[kind % 8].join()})`}, dots);
  plane.x.forEach((at, i) => dot(x(at), y(plane.y[i]), plane.kind[i]));
  plane.kinds.forEach((kind, k) => {
    const px = left + (k % 3) * (width - left) / 3, py = height - legend + 14 + 26 * Math.floor(k / 3);
    dot(px + 6, py, k);
    svg("text", {x: px + 18, y: py + 4, class: "tick"}, root, kind.length > 14 ? kind.slice(0, 13) + "…" : kind);
  });
  const note = document.getElementById("plane-note");
  return () => {
    const cells = plane.cells[chosen];
    if (cells === undefined) image.removeAttribute("href");
    else image.setAttribute("href", picture(cells, plane.across));
    const kept = `Kept for the ${Object.keys(plane.cells).length} best trials`;
    note.textContent = cells === undefined ? `${kept}, and not for trial ${chosen}.` : `${kept}; this is trial ${chosen}.`;
  };
}

// The table: built once; sorting puts its rows in another order.
const table = document.getElementById("table");
const rows = new Map();

function buildTable() {
  const head = table.createTHead().insertRow();
  const columns = [{name: "trial", keys: data.trials, number: true}, ...data.columns];
  columns.forEach((column, i) => {
    const cell = document.createElement("th"), button = document.createElement("button");
    button.textContent = column.name;
    button.addEventListener("click", () => sortBy(columns, i));
    if (column.number) cell.className = "number";
    cell.append(button);
    head.append(cell);
  });
  const body = table.createTBody();
  data.trials.forEach((trial, row) => {
    const line = body.insertRow();
    const button = document.createElement("button");
    button.textContent = trial;
    const first = line.insertCell();
    first.className = "number";
    first.append(button);
    for (const column of data.columns) {
      const cell = line.insertCell();
      cell.textContent = column.cells[row];
      if (column.number) cell.className = "number";
    }
    line.dataset.trial = trial;
    line.addEventListener("click", () => choose(trial));
    rows.set(trial, line);
  });
  const loss = columns.findIndex(column => column.name === data.rankedBy);
  sortBy(columns, Math.max(0, loss));
}

function sortBy(columns, i) {
  const heads = table.tHead.rows[0].cells;
  const up = heads[i].getAttribute("aria-sort") !== "ascending";
  for (const head of heads) head.removeAttribute("aria-sort");
  heads[i].setAttribute("aria-sort", up ? "ascending" : "descending");
  const keys = columns[i].keys;
  const order = data.trials.map((_, row) => row).sort((a, b) => {
    if (keys[a] === null || keys[b] === null) return (keys[a] === null) - (keys[b] === null) || a - b;  // the missing last
    return (up ? keys[a] - keys[b] : keys[b] - keys[a]) || a - b;
  });
  table.tBodies[0].append(...order.map(row => rows.get(data.trials[row])));
}

let redraws = [];

function choose(trial) {
  rows.get(chosen).classList.remove("chosen");
  chosen = trial;
  rows.get(trial).classList.add("chosen");
  const row = rowOf.get(trial);
  const facts = data.columns.map(column => `${column.name} ${column.cells[row] || "–"}`);
  document.getElementById("chosen").textContent = `Chosen: trial ${trial}. ` + facts.join(", ") + ".";
  document.body.dataset.chosen = trial;
  for (const redraw of redraws) redraw();
}

function draw() {
  redraws = [drawParallel(), drawCurves(), drawPlane()];
  choose(chosen);
}

buildTable();
draw();
let drawn = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth !== drawn) { drawn = window.innerWidth; draw(); }
});
