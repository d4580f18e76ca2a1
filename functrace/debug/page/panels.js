// Beside the drawing: source lines with their equations, what is known of the one that is chosen, the search.

const $ = (id) => document.getElementById(id);
const SHOWN = 40; // equations listed at a line before one asks for more

function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const key in properties) key === "class" ? (element.className = properties[key]) : key.startsWith("data-") ? element.setAttribute(key, properties[key]) : (element[key] = properties[key]);
  element.append(...children.filter((c) => c !== null && c !== undefined));
  return element;
}

// The source.

const byLine = data.files.map(() => new Map());
for (const e of equations) {
  if (e.source.file < 0) continue;
  const lines = byLine[e.source.file];
  if (!lines.has(e.source.line)) lines.set(e.source.line, []);
  lines.get(e.source.line).push(e);
}
const code = { file: -1, open: null, more: false };

function costOf(line) {
  return line.reduce((sum, e) => sum + (e.children.length ? 0 : e.stats.flops + e.stats.transcendentals), 0);
}

function showFile(file) {
  code.file = file;
  $("files").replaceChildren(...data.files.map((f, i) => el("button", { class: i === file ? "on" : "", title: f.path, onclick: () => { code.open = null; showFile(i); } }, f.name)));
  const lines = byLine[file], whole = Math.max(data.totals.flops + data.totals.transcendentals, 1);
  const rows = [];
  const pieces = data.files[file].pieces.length ? data.files[file].pieces : [[null, [...lines.keys()].sort((a, b) => a - b)]];
  for (const [first, texts] of pieces) {
    if (rows.length) rows.push(el("div", { class: "gap" }, "⋯"));
    texts.forEach((text, i) => {
      const number = first === null ? text : first + i;
      rows.push(lineRow(number, first === null ? "(the file is not here to be read)" : text, lines.get(number), whole));
    });
  }
  $("lines").replaceChildren(...rows);
  if (code.open !== null) openLine(code.open);
  else $("lines").scrollTop = Math.max(0, ($("lines").querySelector(".has")?.offsetTop ?? 0) - 60);
}

function lineRow(number, text, line, whole) {
  const row = el("div", { class: line ? "line has" : "line", "data-line": number }, el("span", { class: "number" }, String(number)), el("code", {}, text || " "));
  if (!line) return row;
  const backward = line.filter((e) => e.source.phase === "backward").length, share = costOf(line) / whole;
  const bar = el("i", { class: "bar" });
  bar.style.width = `${Math.round(share * 100)}%`;
  const badge = el("span", { class: "badge", title: `${line.length} equations, ${(share * 100).toFixed(1)}% of all operations` }, bar);
  if (line.length > backward) badge.append(el("b", { class: "forward" }, String(line.length - backward)));
  if (backward) badge.append(el("b", { class: "backward" }, String(backward)));
  row.append(badge);
  row.onclick = () => (code.open === number ? closeLine() : openLine(number));
  return row;
}

function closeLine() {
  for (const opened of document.querySelectorAll("#lines .opened")) {
    opened.firstChild.classList.remove("open");
    opened.replaceWith(opened.firstChild);
  }
  code.open = null;
  code.more = false;
}

function openLine(number) {
  const more = code.open === number && code.more;
  closeLine();
  const row = document.querySelector(`#lines [data-line="${number}"]`);
  if (!row) return null;
  code.open = number;
  code.more = more;
  row.classList.add("open");
  const line = byLine[code.file].get(number) || [];
  const from = more ? 0 : Math.max(0, line.indexOf(state.selected) - SHOWN / 2), shown = more ? line : line.slice(from, from + SHOWN);
  const rest = (count) => (count ? el("li", { class: "more", onclick: () => { code.more = true; openLine(number); } }, `${count} more`) : null);
  const list = el("ul", { class: "equations" }, rest(from), ...shown.map(equationItem), rest(line.length - from - shown.length));
  const opened = el("div", { class: "opened" });
  row.replaceWith(opened);
  opened.append(row, list); // in which the line stays in sight
  return opened;
}

function equationItem(e) {
  const text = el("span", {}, el("em", {}, e.results.map((r) => r.name).join(", ")), " = ", el("strong", {}, e.primitive), " ", e.operands.map((x) => x.name ?? x.literal).join(" "));
  const type = el("span", { class: "type" }, e.results.map((r) => r.type).join(" "));
  return el("li", { class: `${e.source.phase}${e === state.selected ? " selected" : ""}`, "data-id": String(e.id), title: e.source.rewrite, onclick: (event) => { event.stopPropagation(); select(e); } }, text, type);
}

// What is known of one equation, or of a group.

function row(name, ...values) {
  return el("tr", {}, el("th", {}, name), el("td", {}, ...values));
}

function link(e, text) {
  return el("button", { class: "link", "data-go": String(e.id), onclick: () => select(e) }, text);
}

function valueRow(value) {
  if (value.literal !== undefined) return el("tr", {}, el("td", {}, el("code", {}, value.literal)), el("td", {}), el("td", {}), el("td", {}));
  const from = value.by ? link(value.by, value.by.primitive) : el("span", { class: "dim" }, "input");
  const norm = el("span", { class: isBad(value.norm) ? "bad" : "" }, normText(value.norm));
  return el("tr", {}, el("td", {}, el("code", {}, value.name)), el("td", { class: "type" }, value.type), el("td", {}, norm), el("td", {}, from));
}

function valueTable(title, values, last) {
  const head = el("tr", {}, ...[title, "type", data.measured ? "norm" : "", last].map((t) => el("th", {}, t)));
  return el("table", { class: "values" }, head, ...values);
}

function details(node) {
  const panel = $("details");
  if (!node) {
    panel.replaceChildren(el("p", { class: "dim" }, "Click on an equation to see its line, operands, parameters and cost. A group opens and closes with a click. Keys: / to search, f and u to fold and unfold all, ↑ ↓ to the next equation."));
    return;
  }
  const s = node.stats, facts = el("table", { class: "facts" });
  if (node.kind === "equation") {
    if (node.place) facts.append(row("line", el("span", { id: "place" }, node.place), ` in ${node.source.fun}`));
    if (node.source.rewrite) facts.append(row("made by", `${node.source.rewrite}`));
    facts.append(row("phase", node.source.phase));
    if (node.source.scope) facts.append(row("scope", node.source.scope));
    for (const [key, text] of node.params) facts.append(row(key, el("code", {}, text)));
  } else {
    facts.append(row("equations", String(s.count)));
  }
  const takes = [quantity(s.flops, "FLOP"), s.transcendentals ? `${quantity(s.transcendentals, "")} transcendental` : null, `${quantity(s.bytes, "B")} read and written`, `${quantity(s.alive, "B")} alive`];
  facts.append(row("takes", takes.filter(Boolean).join(" · "), node.cost && node.cost[4] !== 1 ? ` · runs ${node.cost[4]} times` : ""));
  if (s.norm !== null) facts.append(row(node.kind === "equation" ? "norm" : "greatest norm", el("span", { class: isBad(s.norm) ? "bad" : "" }, normText(s.norm))));
  const parts = [el("h2", {}, el("i", { class: `dot ${s.phase}` }), labelOf(node)), facts];
  if (node.kind === "equation") {
    parts.push(valueTable("operands", node.operands.map(valueRow), "from"));
    parts.push(valueTable("results", node.results.map((r) => {
      const uses = el("td", {}, ...r.uses.slice(0, 8).map((u) => link(u, u.primitive)), r.uses.length > 8 ? ` +${r.uses.length - 8}` : "");
      if (node.program.outputs.includes(r)) uses.append(el("span", { class: "dim" }, " output"));
      return el("tr", {}, el("td", {}, el("code", {}, r.name)), el("td", { class: "type" }, r.type), el("td", {}, el("span", { class: isBad(r.norm) ? "bad" : "" }, normText(r.norm))), uses);
    }), "read by"));
  }
  panel.replaceChildren(...parts);
  panel.scrollTop = 0;
}

function select(node, isShown = true) {
  state.selected = node;
  details(node);
  if (node && isShown) reveal(node);
  else draw();
  if (node && node.kind === "equation" && node.source.file >= 0) {
    code.open = node.source.line;
    if (code.file !== node.source.file) showFile(node.source.file);
    const line = openLine(node.source.line), panel = $("lines");
    const item = panel.querySelector("li.selected");
    if (line) panel.scrollTop = line.offsetTop - panel.clientHeight / 4;
    if (item && item.offsetTop > panel.scrollTop + panel.clientHeight - 40) panel.scrollTop = item.offsetTop - panel.clientHeight / 2;
  }
}

// The search.

const finding = { found: [], at: -1 };

function search(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  finding.found = words.length ? equations.filter((e) => words.every((w) => e.text.includes(w))) : [];
  const isNamed = (e) => (e.primitive === words[0] ? 0 : 1);
  finding.found.sort((a, b) => isNamed(a) - isNamed(b)); // those of that very name first, and in order
  finding.at = -1;
  state.matches = new Set(finding.found);
  state.inside = new Set();
  for (const e of finding.found) for (let up = e.parent; up && !state.inside.has(up); up = up.parent) state.inside.add(up);
  $("found").textContent = words.length ? `${finding.found.length} found` : "";
  const items = finding.found.slice(0, 12).map((e, i) => el("li", { "data-id": String(e.id), onmousedown: (event) => { event.preventDefault(); goTo(i); } }, el("span", {}, el("strong", {}, e.primitive), ` ${e.results.map((r) => r.name).join(", ")}`), el("span", { class: "dim" }, `${e.place}${e.source.scope ? " in " + e.source.scope : ""}`)));
  $("results").replaceChildren(...items);
  $("results").hidden = !items.length;
  draw();
}

function goTo(i) {
  if (!finding.found.length) return;
  finding.at = (i + finding.found.length) % finding.found.length;
  $("found").textContent = `${finding.at + 1} of ${finding.found.length}`;
  $("results").hidden = true;
  select(finding.found[finding.at]);
}

// Colours and their legend.

function setMode(mode) {
  state.mode = mode;
  state.range = MODES[mode].value ? rangeOf(mode) : null;
  $("colour").value = mode;
  const legend = $("legend");
  if (!MODES[mode].value) {
    legend.replaceChildren(el("i", { class: "dot forward" }), "forward", el("i", { class: "dot backward" }), "backward");
  } else if (!state.range) {
    legend.replaceChildren(`${MODES[mode].label}: nothing to tell`);
  } else {
    const ramp = el("i", { class: "ramp" });
    ramp.style.background = `linear-gradient(90deg, ${RAMP.join(", ")})`;
    const hasBad = equations.some((e) => isBad(MODES[mode].value(e.stats)));
    legend.replaceChildren(MODES[mode].label, el("span", {}, MODES[mode].text(state.range[0])), ramp, el("span", {}, MODES[mode].text(state.range[1])), ...(hasBad ? [el("i", { class: "dot worst" }), "NaN or Inf"] : []));
  }
  draw();
}

// What the user does.

scroller.addEventListener("scroll", () => requestAnimationFrame(() => {
  const z = state.zoom, d = drawnAt;
  const top = scroller.scrollTop / z, left = scroller.scrollLeft / z;
  if (top - 100 < d.top || left - 100 < d.left || top + scroller.clientHeight / z + 100 > d.bottom || left + scroller.clientWidth / z + 100 > d.right) draw();
}));
scroller.addEventListener("wheel", (event) => {
  if (!event.ctrlKey && !event.metaKey) return;
  event.preventDefault();
  const box = scroller.getBoundingClientRect();
  setZoom(state.zoom * Math.exp(-event.deltaY / 300), event.clientX - box.left, event.clientY - box.top);
}, { passive: false });

let drag = null;
scroller.addEventListener("pointerdown", (event) => {
  if (!event.target.closest(".node, .box .head") && event.button === 0) drag = [event.clientX + scroller.scrollLeft, event.clientY + scroller.scrollTop];
});
window.addEventListener("pointermove", (event) => { if (drag) scroller.scrollTo(drag[0] - event.clientX, drag[1] - event.clientY); });
window.addEventListener("pointerup", () => { drag = null; });

drawing.addEventListener("click", (event) => {
  const hit = event.target.closest("[data-id]");
  if (!hit) return;
  const node = nodes[+hit.getAttribute("data-id")];
  if (node.open && !event.target.closest(".head, .label")) return;
  if (node.kind === "equation") {
    if (isFoldable(node) && (node.open || state.selected === node)) toggle(node);
    else select(node, false);
  } else {
    state.selected = node;
    details(node);
    toggle(node);
  }
});
drawing.addEventListener("dblclick", (event) => {
  const hit = event.target.closest(".node.equation");
  const node = hit && nodes[+hit.getAttribute("data-id")];
  if (node && isFoldable(node) && !node.open) toggle(node);
});

$("search").addEventListener("input", (event) => search(event.target.value));
$("search").addEventListener("focus", () => { $("results").hidden = !$("results").children.length; });
$("search").addEventListener("blur", () => { $("results").hidden = true; });
$("search").addEventListener("keydown", (event) => {
  if (event.key === "Enter") goTo(finding.at + (event.shiftKey ? -1 : 1));
  if (event.key === "Escape") { event.target.value = ""; search(""); event.target.blur(); }
});
document.addEventListener("keydown", (event) => {
  if (event.target.tagName === "INPUT" || event.target.tagName === "SELECT" || event.ctrlKey || event.metaKey || event.altKey) return;
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (event.key === "/") { event.preventDefault(); $("search").focus(); }
  else if (event.key === "f") $("fold").click();
  else if (event.key === "u") $("unfold").click();
  else if (event.key === "Escape") select(null);
  else if (step && state.selected && state.selected.kind === "equation") {
    event.preventDefault();
    const next = equations[equations.indexOf(state.selected) + step];
    if (next) select(next);
  }
});
$("fold").onclick = () => { setAll(false); relayout(); fit(); };
$("unfold").onclick = () => { setAll(true); relayout(); };
$("in").onclick = () => setZoom(state.zoom * 1.25);
$("out").onclick = () => setZoom(state.zoom / 1.25);
$("fit").onclick = fit;
$("theme").onclick = () => {
  const isDark = getComputedStyle(document.documentElement).colorScheme === "dark";
  document.documentElement.dataset.theme = isDark ? "light" : "dark";
};
$("colour").append(...Object.entries(MODES).map(([value, { label }]) => el("option", { value }, label)));
$("colour").onchange = (event) => setMode(event.target.value);
$("divider").addEventListener("pointerdown", (down) => {
  const aside = document.querySelector("aside"), width = aside.offsetWidth;
  const move = (event) => { aside.style.width = `${Math.max(260, width + down.clientX - event.clientX)}px`; };
  const up = () => { window.removeEventListener("pointermove", move); window.removeEventListener("pointerup", up); resize(); draw(); };
  window.addEventListener("pointermove", move);
  window.addEventListener("pointerup", up);
});
window.addEventListener("resize", () => { resize(); draw(); });

const t = data.totals;
$("totals").textContent = `${equations.length.toLocaleString("en")} equations · ${quantity(t.flops, "FLOP")} · ${quantity(t.bytes, "B")} moved · at most ${quantity(t.peak_bytes, "B")} alive${data.loops.length ? " · loops of unknown length count one turn" : ""}`;
unfoldSome(70);
state.scene = layOut();
const busiest = byLine.map((lines) => [...lines.values()].reduce((sum, line) => sum + line.length, 0));
if (data.files.length) showFile(busiest.indexOf(Math.max(...busiest)));
details(null);
resize();
setMode(data.measured ? "norm" : "phase");
fit();
