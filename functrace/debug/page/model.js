"use strict";
// The Program as a tree: equations stand in groups, by phase and scope, and an equation holds the Programs that it runs.
// A group is a run of equations that follow each other, so no group depends on one that comes after it.

const data = JSON.parse(document.getElementById("data").textContent);
const sources = data.sources.map(([file, line, fun, rewrite, scope, phase]) => ({ file, line, fun, rewrite, scope, phase }));
const equations = []; // all of them, in order; those of a nested Program behind the one that runs it
const nodes = [];     // equations and groups, each at its id
const MANY = 120;     // what a group may show at once before it is cut in pieces
const PIECE = 60;

function makeNode(fields) {
  const node = { id: nodes.length, open: false, children: [], parent: null, ...fields };
  nodes.push(node);
  return node;
}

function readProgram(number, scope) {
  const raw = data.programs[number];
  const program = { label: raw.label, values: [], equations: [], deps: [] };
  for (const [name, type] of raw.inputs) program.values.push({ name, type, norm: null, by: null, uses: [] });
  raw.equations.forEach((e, index) => {
    const node = makeNode({ kind: "equation", program, index, first: index, last: index, ...e, source: sources[e.source] });
    equations.push(node);
    program.equations.push(node);
    const deps = new Set();
    node.operands = e.operands.map((x) => (typeof x === "number" ? program.values[x] : { literal: x }));
    for (const x of node.operands) {
      if (x.uses && x.uses[x.uses.length - 1] !== node) x.uses.push(node);
      if (x.by) deps.add(x.by.index);
    }
    node.results = e.results.map(([name, type, norm]) => {
      const value = { name, type, norm, by: node, uses: [] };
      program.values.push(value);
      return value;
    });
    program.deps.push([...deps]);
    const held = (e.programs || []).map((n) => readProgram(n, node.source.scope));
    node.programs = held;
    if (held.length === 1) {
      node.children = held[0].items;
    } else {
      node.children = held.map((p) => makeNode({ kind: "program", label: p.label, program: null, children: p.items }));
      for (const part of node.children) for (const child of part.children) child.parent = part;
    }
    for (const child of node.children) child.parent = node;
  });
  program.outputs = raw.outputs.map((x) => (typeof x === "number" ? program.values[x] : { literal: x }));
  program.items = grouped(program, scope);
  return program;
}

// The path of an equation in the tree: its phase, where the Program has both, and the steps of its scope.
function pathsOf(program, around) {
  const phases = new Set(program.equations.map((e) => e.source.phase));
  let before = [];
  return program.equations.map((e) => {
    if (e.source.file < 0 && !e.source.scope) return before;
    let scope = e.source.scope;
    if (around && (scope + "/").startsWith(around + "/")) scope = scope.slice(around.length + 1);
    before = [...(phases.size > 1 ? [e.source.phase] : []), ...(scope ? scope.split("/") : [])];
    return before;
  });
}

function grouped(program, around) {
  const root = makeNode({ kind: "group", label: "", program });
  const open = [root];
  const paths = pathsOf(program, around);
  program.equations.forEach((e, i) => {
    const path = paths[i];
    let depth = 0;
    while (depth < path.length && depth + 1 < open.length && open[depth + 1].label === path[depth]) depth++;
    open.length = depth + 1;
    for (const step of path.slice(depth)) {
      const group = makeNode({ kind: "group", label: step, program });
      open[open.length - 1].children.push(group);
      open.push(group);
    }
    open[open.length - 1].children.push(e);
  });
  return settled(root).children;
}

// A group of one is that one; one of too many is cut in pieces; intervals and parents are set.
function settled(node) {
  if (node.kind !== "group") return node;
  node.children = node.children.map(settled);
  if (node.children.length === 1 && node.label) return node.children[0];
  if (node.children.length > MANY) {
    const pieces = [];
    for (let i = 0; i < node.children.length; i += PIECE) {
      const children = node.children.slice(i, i + PIECE);
      pieces.push(bounded(makeNode({ kind: "group", label: lineRange(children), program: node.program, children, piece: true })));
    }
    node.children = pieces;
    return settled(bounded(node));
  }
  return bounded(node);
}

function bounded(node) {
  for (const child of node.children) child.parent = node;
  if (node.children.length) {
    node.first = node.children[0].first;
    node.last = node.children[node.children.length - 1].last;
  }
  return node;
}

function lineRange(children) {
  const lines = leavesOf(children).map((e) => e.source).filter((s) => s.file >= 0);
  if (!lines.length) return "equations";
  const numbers = lines.filter((s) => s.file === lines[0].file).map((s) => s.line);
  const low = numbers.reduce((a, b) => Math.min(a, b)), high = numbers.reduce((a, b) => Math.max(a, b));
  return `${data.files[lines[0].file].name}:${low}${high > low ? "–" + high : ""}`;
}

function leavesOf(items) {
  const found = [];
  for (const item of items) item.kind === "equation" ? found.push(item) : found.push(...leavesOf(item.children));
  return found;
}

const isFoldable = (node) => node.children.length > 0;
const isBad = (x) => x === "nan" || x === "inf";

// The greatest of some norms; what is not finite is greater than any number.
function greatest(norms) {
  let found = null;
  for (const x of norms) {
    if (x === null || x === undefined) continue;
    if (x === "nan" || found === "nan") found = "nan";
    else if (isBad(x) || isBad(found)) found = "inf";
    else found = found === null ? x : Math.max(found, x);
  }
  return found;
}

function sumUp(node) {
  node.children.forEach(sumUp);
  const own = node.kind === "equation" && !node.children.length ? node.cost : null;
  const parts = node.children.map((c) => c.stats);
  const sum = (key, i) => parts.reduce((a, p) => a + p[key], own ? own[i] : 0);
  const results = node.kind === "equation" ? node.results.map((r) => r.norm) : parts.map((p) => p.norm);
  const norm = greatest(results);
  const isBackward = node.kind === "equation" && node.source.phase === "backward";
  node.stats = {
    count: parts.reduce((a, p) => a + p.count, node.kind === "equation" ? 1 : 0),
    flops: sum("flops", 0),
    transcendentals: sum("transcendentals", 1),
    bytes: sum("bytes", 2),
    alive: parts.reduce((a, p) => Math.max(a, p.alive), own ? own[3] : 0),
    norm,
    cotangent: node.kind === "equation" ? (isBackward ? norm : null) : greatest(parts.map((p) => p.cotangent)),
    phase: node.kind === "equation" ? node.source.phase : parts.every((p) => p.phase === parts[0].phase) && parts.length ? parts[0].phase : "both",
  };
}

const main = readProgram(0, "");
main.items.forEach(sumUp);

// What the search looks through, and where an equation stands.
for (const e of equations) {
  const s = e.source;
  e.place = s.file >= 0 ? `${data.files[s.file].name}:${s.line}` : "";
  e.text = [e.primitive, e.results.map((r) => `${r.name} ${r.type}`).join(" "), e.operands.map((x) => x.name || x.literal).join(" "),
    e.params.map(([k, v]) => `${k}=${v}`).join(" "), e.place, s.fun, s.scope, s.rewrite, s.phase].join(" ").toLowerCase();
}

function quantity(n, unit) {
  for (const prefix of ["", "k", "M", "G", "T"]) {
    if (n < 999.5) return `${+n.toPrecision(3)} ${prefix}${unit}`.trim();
    n /= 1000;
  }
  return `${+n.toPrecision(3)} P${unit}`;
}

function normText(x) {
  if (x === null || x === undefined) return "";
  if (isBad(x)) return x === "nan" ? "NaN" : "Inf";
  if (x === 0) return "0";
  return x < 1e-2 || x >= 1e5 ? x.toExponential(2).replace("e+", "e") : String(+x.toPrecision(3));
}
