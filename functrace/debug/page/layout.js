// Where things stand: each open group is laid out by itself, in layers, an equation below all that it reads.
// One pass over the equations of the Programs that are on view, and a sort of each layer.

const GAP = { x: 18, y: 30 }, WIDE = 1150, PAD = 12, HEAD = 28, HEIGHT = 42;
const LONG = 320, FAR = 1200; // a line longer than these is drawn faintly; by its two ends alone

function labelOf(node) {
  if (node.kind !== "equation") return node.label;
  const label = isFoldable(node) && node.params.find(([key]) => key === "label"); // the function's name
  return label ? `${node.primitive} ${label[1].replace(/^'|'$/g, "")}` : node.primitive;
}

function widthOf(node) {
  const label = labelOf(node).length * 7.6 + (isFoldable(node) ? 18 : 0);
  const below = secondLine(node).length * 6.3;
  return Math.min(Math.max(84, label, below) + 22, 270);
}

function secondLine(node) {
  if (node.kind === "equation" && !isFoldable(node)) return node.results.length ? node.results[0].type + (node.results.length > 1 ? " …" : "") : "";
  return `${node.stats.count} equation${node.stats.count === 1 ? "" : "s"}`;
}

// Sets size and place, relative to what it is in, of a node and all that is on view in it.
function place(node) {
  if (!node.open) {
    node.w = widthOf(node);
    node.h = HEIGHT;
    return;
  }
  const size = placeAll(node.children);
  node.w = Math.max(size.w, labelOf(node).length * 7.6 + 150) + 2 * PAD;
  node.h = size.h + HEAD + PAD;
  const shift = (node.w - size.w) / 2;
  for (const child of node.children) {
    child.x += shift;
    child.y += HEAD;
  }
}

function placeAll(items) {
  items.forEach(place);
  const reads = items.map(() => new Set());
  const isRead = items.map(() => []);
  if (items.length && items[0].program) {
    const deps = items[0].program.deps, start = items[0].first;
    const owner = new Int32Array(items[items.length - 1].last - start + 1);
    items.forEach((item, i) => owner.fill(i, item.first - start, item.last - start + 1));
    items.forEach((item, i) => {
      for (let e = item.first; e <= item.last; e++) {
        for (const d of deps[e]) {
          if (d >= start && owner[d - start] !== i && !reads[i].has(owner[d - start])) {
            reads[i].add(owner[d - start]);
            isRead[owner[d - start]].push(i);
          }
        }
      }
    });
  }
  const layer = new Int32Array(items.length);
  items.forEach((_, i) => { for (const j of reads[i]) layer[i] = Math.max(layer[i], layer[j] + 1); });
  for (let i = items.length - 1; i >= 0; i--) { // what reads nothing here stands just above what reads it
    if (!reads[i].size && isRead[i].length) layer[i] = Math.max(0, Math.min(...isRead[i].map((j) => layer[j])) - 1);
  }
  const layers = [];
  items.forEach((item, i) => (layers[layer[i]] ||= []).push(i));
  let y = 0;
  const middle = new Float64Array(items.length);
  for (const members of layers) {
    if (!members) continue;
    const wanted = new Map(members.map((i) => [i, mean([...reads[i]].map((j) => middle[j]))]));
    const known = mean([...wanted.values()].filter((x) => x !== null)) ?? 0;
    members.sort((a, b) => (wanted.get(a) ?? known) - (wanted.get(b) ?? known) || a - b);
    for (const row of rowsOf(members, items)) {
      let right = -Infinity, moved = 0, weight = 0, height = 0;
      for (const i of row) {
        const item = items[i], left = (wanted.get(i) ?? known) - item.w / 2;
        const own = isRead[i].length ? 20 : 1; // what goes on stays in line, what ends makes room
        item.x = Math.max(left, right + GAP.x);
        item.y = y;
        moved += own * (item.x - left);
        weight += own;
        right = item.x + item.w;
        height = Math.max(height, item.h);
      }
      for (const i of row) {
        items[i].x -= moved / weight;
        middle[i] = items[i].x + items[i].w / 2;
      }
      y += height + GAP.y;
    }
  }
  let left = Infinity, right = 0;
  for (const item of items) left = Math.min(left, item.x);
  for (const item of items) { item.x -= left; right = Math.max(right, item.x + item.w); }
  return { w: right, h: Math.max(y - GAP.y, 0) };
}

// A layer that is too wide stands in several rows.
function rowsOf(members, items) {
  const rows = [[]];
  let width = 0;
  for (const i of members) {
    if (width > 0 && width + items[i].w > WIDE) {
      rows.push([]);
      width = 0;
    }
    rows[rows.length - 1].push(i);
    width += items[i].w + GAP.x;
  }
  return rows;
}

const mean = (xs) => (xs.length ? xs.reduce((a, b) => a + b, 0) / xs.length : null);

// All that is on view, with its place on the sheet: boxes of open groups, outermost first, and the rest.
function layOut() {
  const size = placeAll(main.items);
  const scene = { boxes: [], leaves: [], edges: [], w: size.w + 80, h: size.h + 80 };
  const programs = new Map();
  const visit = (node, x, y) => {
    node.left = x + node.x;
    node.top = y + node.y;
    if (node.program) {
      if (!programs.has(node.program)) programs.set(node.program, new Array(node.program.equations.length));
      if (!node.open || node.kind === "equation") programs.get(node.program).fill(node, node.first, node.last + 1);
    }
    (node.open ? scene.boxes : scene.leaves).push(node);
    if (node.open) for (const child of node.children) visit(child, node.left, node.top);
  };
  for (const item of main.items) visit(item, 40, 40);
  for (const [program, shown] of programs) {
    const drawn = new Set();
    program.deps.forEach((deps, e) => {
      for (const d of deps) {
        const a = shown[d], b = shown[e];
        if (!a || !b || a === b) continue;
        const key = a.id * nodes.length + b.id;
        if (drawn.has(key)) continue;
        drawn.add(key);
        const edge = { a, b, x1: a.left + a.w / 2, y1: a.top + a.h, x2: b.left + b.w / 2, y2: b.top };
        edge.top = Math.min(edge.y1, edge.y2);
        edge.bottom = Math.max(edge.y1, edge.y2);
        edge.isLong = edge.bottom - edge.top > LONG;
        edge.isFar = edge.bottom - edge.top > FAR;
        scene.edges.push(edge);
      }
    });
  }
  return scene;
}
