// The drawing: what of the scene is in the window, in SVG. It is drawn again when the window moves.

const SVG = "http://www.w3.org/2000/svg";
const scroller = document.getElementById("scroller"), sheet = document.getElementById("sheet"), drawing = document.getElementById("drawing");
const RAMP = ["#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#fde725"];
const MODES = {
  phase: { label: "phase" },
  flops: { label: "operations", value: (s) => s.flops + s.transcendentals, text: (x) => quantity(x, "op") },
  bytes: { label: "bytes moved", value: (s) => s.bytes, text: (x) => quantity(x, "B") },
  alive: { label: "memory alive", value: (s) => s.alive, text: (x) => quantity(x, "B"), linear: true },
  ...(data.measured ? {
    norm: { label: "norm", value: (s) => s.norm, text: normText, name: "norm " },
    cotangent: { label: "cotangent norm", value: (s) => s.cotangent, text: normText, name: "norm " },
  } : {}),
};
// `shift` is how far the sheet stands to the right, where it is narrower than the window.
const state = { scene: null, zoom: 1, shift: 0, mode: "phase", range: null, selected: null, matches: new Set(), inside: new Set() };

function make(tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const key in attributes) element.setAttribute(key, attributes[key]);
  if (text !== undefined) element.textContent = text;
  return element;
}

// The range of a mode over all equations that compute; a group may have more than its end.
function rangeOf(mode) {
  const { value } = MODES[mode];
  let low = Infinity, high = -Infinity;
  for (const e of equations) {
    const x = value(e.stats);
    if (x === null || isBad(x) || !(x > 0)) continue;
    low = Math.min(low, x);
    high = Math.max(high, x);
  }
  return low <= high ? [low, high] : null;
}

function colourOf(node) {
  const mode = MODES[state.mode];
  if (!mode.value) return null;
  const x = mode.value(node.stats);
  if (x === null || x === undefined) return null;
  if (isBad(x)) return "#d3203f";
  if (!state.range || x <= 0) return x === 0 ? RAMP[0] : null;
  const [low, high] = state.range;
  const scale = mode.linear ? (v) => v : Math.log;
  const t = high > low ? (scale(x) - scale(low)) / (scale(high) - scale(low)) : 1;
  return mixed(Math.min(Math.max(t, 0), 1));
}

function mixed(t) {
  const at = t * (RAMP.length - 1), i = Math.min(Math.floor(at), RAMP.length - 2);
  const part = (hex, k) => parseInt(hex.slice(1 + 2 * k, 3 + 2 * k), 16);
  return "#" + [0, 1, 2].map((k) => Math.round(part(RAMP[i], k) + (at - i) * (part(RAMP[i + 1], k) - part(RAMP[i], k))).toString(16).padStart(2, "0")).join("");
}

function inkOn(colour) {
  const [r, g, b] = [1, 3, 5].map((k) => parseInt(colour.slice(k, k + 2), 16) / 255);
  return 0.299 * r + 0.587 * g + 0.114 * b > 0.55 ? "#16181d" : "#ffffff";
}

const fitted = (text, width, each) => (text.length * each <= width ? text : text.slice(0, Math.max(1, Math.floor(width / each) - 1)) + "…");

function classesOf(node) {
  const names = [node.kind, node.stats.phase];
  if (node === state.selected) names.push("selected");
  if (state.matches.has(node)) names.push("match");
  if (!node.open && isFoldable(node) && state.inside.has(node)) names.push("match");
  return names.join(" ");
}

function drawLeaf(node) {
  const g = make("g", { class: `node ${classesOf(node)}`, "data-id": node.id, transform: `translate(${node.left},${node.top})` });
  const colour = colourOf(node), isStack = isFoldable(node);
  if (isStack) g.append(make("rect", { class: "under", x: 3, y: 3, width: node.w, height: node.h, rx: 8 }));
  const body = make("rect", { class: "body", width: node.w, height: node.h, rx: 8 });
  g.append(body, make("rect", { class: "stripe", x: 0, y: 8, width: 3, height: node.h - 16, rx: 1.5 }));
  const label = make("text", { class: "label", x: 12, y: 18 }, fitted((isStack ? "▸ " : "") + labelOf(node), node.w - 18, 7.4));
  const mode = MODES[state.mode], x = mode.value ? mode.value(node.stats) : null;
  const second = mode.value && x !== null && x !== undefined ? (mode.name || "") + mode.text(x) : secondLine(node);
  const below = make("text", { class: "below", x: 12, y: 33 }, fitted(second, node.w - 18, 6.2));
  if (colour) {
    body.style.fill = colour;
    label.style.fill = below.style.fill = inkOn(colour);
  }
  g.append(label, below, make("title", {}, tipOf(node)));
  return g;
}

function tipOf(node) {
  const s = node.stats, lines = [];
  if (node.kind === "equation") lines.push(`${node.results.map((r) => r.name).join(", ")} = ${node.primitive}(${node.operands.map((x) => x.name ?? x.literal).join(", ")})`, node.place);
  else lines.push(node.label);
  lines.push(`${quantity(s.flops, "FLOP")}, ${quantity(s.bytes, "B")} moved, ${quantity(s.alive, "B")} alive`);
  if (s.norm !== null) lines.push(`norm ${normText(s.norm)}`);
  return lines.filter(Boolean).join("\n");
}

function boxGroup(node) {
  return make("g", { class: `box ${classesOf(node)}`, "data-id": node.id, transform: `translate(${node.left},${node.top})` });
}

function drawFrame(node) {
  const g = boxGroup(node);
  g.append(make("rect", { class: "frame", width: node.w, height: node.h, rx: 10 }));
  return g;
}

// Over the lines, which may cross it.
function drawHead(node) {
  const g = boxGroup(node);
  g.append(make("rect", { class: "head", width: node.w, height: HEAD - 6, rx: 10 }));
  g.append(make("text", { class: "label", x: 12, y: 16 }, `▾ ${labelOf(node)}`));
  const end = `${node.stats.count} equations · ${quantity(node.stats.flops, "FLOP")}`;
  if (node.w > labelOf(node).length * 7.6 + end.length * 6.2 + 60) g.append(make("text", { class: "below", x: node.w - 12, y: 15.5, "text-anchor": "end" }, end));
  return g;
}

function drawEdge(edge) {
  const bend = Math.min(Math.max((edge.y2 - edge.y1) / 2, 14), 80);
  const isLit = state.selected && (edge.a === state.selected || edge.b === state.selected);
  if (edge.isFar && !isLit) return make("path", { class: "edge far", d: `M${edge.x1} ${edge.y1}v22M${edge.x2} ${edge.y2 - 22}v22` });
  return make("path", {
    class: `edge${edge.isLong ? " long" : ""}${isLit ? (edge.b === state.selected ? " into" : " from") : ""}`,
    d: `M${edge.x1} ${edge.y1}C${edge.x1} ${edge.y1 + bend} ${edge.x2} ${edge.y2 - bend} ${edge.x2} ${edge.y2}`,
    "marker-end": `url(#${isLit ? "lit" : "arrow"})`,
  });
}

let drawnAt = null;
function draw() {
  const z = state.zoom, margin = 300;
  const view = {
    left: (scroller.scrollLeft - state.shift) / z - margin, right: (scroller.scrollLeft - state.shift + scroller.clientWidth) / z + margin,
    top: scroller.scrollTop / z - margin, bottom: (scroller.scrollTop + scroller.clientHeight) / z + margin,
  };
  drawnAt = view;
  const isIn = (n) => n.left < view.right && n.left + n.w > view.left && n.top < view.bottom && n.top + n.h > view.top;
  const inX = (e) => Math.min(e.x1, e.x2) < view.right && Math.max(e.x1, e.x2) > view.left;
  const isLit = (e) => e.a === state.selected || e.b === state.selected;
  const layer = make("g", { transform: `translate(${state.shift},0) scale(${z})` });
  const boxes = state.scene.boxes.filter(isIn);
  layer.append(...boxes.map(drawFrame));
  const edges = state.scene.edges.filter((e) => e.top < view.bottom && e.bottom > view.top && inX(e));
  layer.append(...edges.filter((e) => !isLit(e)).map(drawEdge), ...edges.filter(isLit).map(drawEdge));
  layer.append(...boxes.map(drawHead), ...state.scene.leaves.filter(isIn).map(drawLeaf));
  drawing.replaceChildren(markers(), layer);
}

function markers() {
  const defs = make("defs", {});
  for (const id of ["arrow", "lit"]) {
    const marker = make("marker", { id, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 6, markerHeight: 6, orient: "auto" });
    marker.append(make("path", { d: "M0 0.8L7 4L0 7.2z", class: `tip ${id}` }));
    defs.append(marker);
  }
  return defs;
}

function resize() {
  const { w, h } = state.scene, z = state.zoom;
  state.shift = Math.max(0, (scroller.clientWidth - 2 - w * z) / 2);
  sheet.style.width = `${Math.max(w * z, scroller.clientWidth - 2)}px`;
  sheet.style.height = `${Math.max(h * z, scroller.clientHeight - 2)}px`;
  drawing.setAttribute("width", Math.max(w * z, scroller.clientWidth - 2));
  drawing.setAttribute("height", Math.max(h * z, scroller.clientHeight - 2));
}

// Lay out again after a fold; `anchor` stays where it is in the window.
function relayout(anchor) {
  const before = anchor && anchor.left !== undefined ? [anchor.left * state.zoom + state.shift - scroller.scrollLeft, anchor.top * state.zoom - scroller.scrollTop] : null;
  state.scene = layOut();
  resize();
  if (before) scroller.scrollTo(anchor.left * state.zoom + state.shift - before[0], anchor.top * state.zoom - before[1]);
  draw();
}

function setZoom(zoom, x = scroller.clientWidth / 2, y = scroller.clientHeight / 2) {
  const next = Math.min(Math.max(zoom, 0.08), 2.5);
  const at = [(scroller.scrollLeft - state.shift + x) / state.zoom, (scroller.scrollTop + y) / state.zoom];
  state.zoom = next;
  resize();
  scroller.scrollTo(at[0] * next + state.shift - x, at[1] * next - y);
  draw();
}

function fit() {
  setZoom(Math.min(1, Math.max(0.4, (scroller.clientWidth - 8) / state.scene.w)));
  scroller.scrollTo((state.scene.w * state.zoom - scroller.clientWidth) / 2, 0);
}

// Open all that an equation stands in, and bring it into the middle of the window.
function reveal(node) {
  for (let up = node.parent; up; up = up.parent) up.open = true;
  relayout();
  scroller.scrollTo({
    left: (node.left + node.w / 2) * state.zoom + state.shift - scroller.clientWidth / 2,
    top: (node.top + Math.min(node.h, 200) / 2) * state.zoom - scroller.clientHeight / 2,
  });
  draw();
}

function toggle(node) {
  node.open = !node.open;
  relayout(node);
}

function setAll(isOpen, items = main.items) {
  for (const item of items) {
    if (isFoldable(item)) item.open = isOpen;
    setAll(isOpen, item.children);
  }
}

// To begin with, as much is unfolded as can be seen without getting lost.
function unfoldSome(limit) {
  let shown = main.items.length, level = main.items.filter(isFoldable);
  while (level.length) {
    const next = [];
    for (const node of level) {
      if (node.piece && node.children.length > limit / 2) continue;
      if (shown + node.children.length > limit) continue;
      node.open = true;
      shown += node.children.length;
      next.push(...node.children.filter(isFoldable));
    }
    level = next;
  }
}
