// The page's behaviour: the table of studies, and a study's panel. Data files call drenet.put(name, value).
"use strict";

const PAGE = 25;
const BOX_FROM = Number(document.body.dataset.boxFrom); // normalised detail score from which a box is drawn (paper, figure 4)
const IN_FILL = Number(document.body.dataset.minLung); // a box that shows less original lung than this is no finding
const TOP = 3;
const SVG = "http://www.w3.org/2000/svg";

const drenet = (() => {
  const held = {}, waiting = {};
  return {
    put(name, value) {
      held[name] = value;
      if (name === "studies") begin(value);
      for (const tell of waiting[name] || []) tell(value);
      delete waiting[name];
    },
    get(name) { // resolves with null where the file is not there
      if (name in held) return Promise.resolve(held[name]);
      return new Promise((resolve) => {
        (waiting[name] = waiting[name] || []).push(resolve);
        const script = document.createElement("script");
        script.src = `data/${name}.js`;
        script.onerror = () => resolve(null);
        document.head.append(script);
      });
    },
  };
})();

const at = (id) => document.getElementById(id);
const count = (number) => number.toLocaleString("en");

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function draw(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// ---- the table ----

let table, column, order, shown, sorted, page;

function begin(data) {
  table = data;
  column = Object.fromEntries(data.columns.map((one) => [one.name, one.values]));
  order = column.study_key.map((_, row) => row);
  fillChoice("status", new Set(column.status));
  const codes = [...column.reason, ...column.warnings].filter(Boolean).flatMap((said) => said.split(";"));
  fillChoice("why", new Set(codes));
  at("table").tHead.replaceChildren(make("tr", {}, ...data.columns.map(header)));
  at("filters").addEventListener("input", filter);
  at("filters").addEventListener("reset", () => setTimeout(filter));
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  at("previous").addEventListener("click", () => turn(-1));
  at("next").addEventListener("click", () => turn(1));
  sortBy(data.networks[0], -1);
  followAddress();
}

function fillChoice(id, values) {
  for (const value of [...values].sort()) at(id).append(make("option", { value }, value));
}

function header(one) {
  const button = make("button", { type: "button", title: one.told }, one.label);
  button.addEventListener("click", () => {
    const first = one.kind === "score" || one.kind === "number" ? -1 : 1;
    sortBy(one.name, sorted.name === one.name ? -sorted.way : first);
  });
  return make("th", { scope: "col", "data-name": one.name }, button);
}

function sortBy(name, way) {
  sorted = { name, way };
  const values = column[name];
  order.sort((a, b) => compare(values[a], values[b], way) || a - b);
  for (const cell of at("table").tHead.rows[0].cells) {
    const said = cell.dataset.name === name ? (way > 0 ? "ascending" : "descending") : "none";
    cell.setAttribute("aria-sort", said);
    cell.firstChild.textContent = cell.firstChild.textContent.replace(/ [\u25b2\u25bc]$/, "");
    if (said !== "none") cell.firstChild.textContent += way > 0 ? " \u25b2" : " \u25bc";
  }
  filter();
}

function compare(a, b, way) { // what is missing comes last, whichever way
  if (a === null || b === null) return (a === null) - (b === null);
  return a < b ? -way : a > b ? way : 0;
}

function filter() {
  const words = at("find").value.trim().toLowerCase();
  const status = at("status").value, why = at("why").value;
  const [low, high] = ["low", "high"].map((id) => (at(id).value === "" ? null : Number(at(id).value)));
  const text = table.columns.filter((one) => one.kind !== "number" && one.kind !== "score").map((one) => one.values);
  const scores = column[table.networks[0]];
  shown = order.filter((row) => {
    if (status && column.status[row] !== status) return false;
    if (why && column.reason[row] !== why && !(column.warnings[row] || "").split(";").includes(why)) return false;
    if (low !== null && !(scores[row] !== null && scores[row] >= low)) return false;
    if (high !== null && !(scores[row] !== null && scores[row] <= high)) return false;
    if (at("pictured").checked && !table.pictured[row]) return false;
    return !words || text.some((values) => values[row] !== null && String(values[row]).toLowerCase().includes(words));
  });
  page = 0;
  fill();
}

function turn(by) {
  page += by;
  fill();
}

function fill() {
  const last = Math.max(0, Math.ceil(shown.length / PAGE) - 1);
  page = Math.min(Math.max(page, 0), last);
  const rows = shown.slice(page * PAGE, (page + 1) * PAGE);
  at("table").tBodies[0].replaceChildren(...rows.map((row) => make("tr", {}, ...table.columns.map((one) => cell(one, row)))));
  at("shown").textContent = `${count(shown.length)} of ${count(order.length)} studies`;
  at("page").textContent = `page ${page + 1} of ${last + 1}`;
  at("previous").disabled = page === 0;
  at("next").disabled = page === last;
}

function cell(one, row) {
  const value = one.values[row];
  if (value === null) return make("td");
  if (one.name === "study_key") {
    const key = make("button", { type: "button", class: "key", title: `open study ${value}` }, short(value));
    key.addEventListener("click", () => { location.hash = `study=${value}`; });
    return make("td", { title: value }, key, table.pictured[row] ? make("span", { title: "with pictures" }, " \u25a3") : "");
  }
  if (one.kind === "key") return make("td", { title: value, class: "key" }, short(value));
  if (one.kind === "score") {
    const bar = make("span", { class: "bar", "aria-hidden": "true" }, make("i", { style: `width:${100 * value}%` }));
    return make("td", {}, bar, value.toFixed(3));
  }
  return make("td", one.kind === "number" ? { class: "n" } : {}, String(value).replaceAll(";", " "));
}

const short = (key) => key.slice(0, 10);

// ---- a study's panel ----

function followAddress() {
  const key = /^#study=(.+)$/.exec(location.hash)?.[1];
  const row = key && table ? column.study_key.indexOf(decodeURIComponent(key)) : -1;
  if (row < 0) return at("panel").close();
  if (!at("panel").open) at("panel").showModal();
  return openStudy(row);
}

async function openStudy(row) {
  const key = column.study_key[row];
  at("panel-title").textContent = `Study ${key}`;
  at("panel-body").replaceChildren(facts(row), make("p", { id: "loading" }, "loading ..."));
  const chunk = await drenet.get(`slices-${Math.floor(row / table.chunk)}`);
  const pictures = table.pictured[row] ? await drenet.get(`images-${key}`) : null;
  if (at("panel-title").textContent !== `Study ${key}`) return;
  at("loading").remove();
  const scores = chunk?.[key];
  if (!scores) {
    at("panel-body").append(make("p", {}, "No slice of this study was scored."));
    return;
  }
  showScored(scores, pictures);
}

function facts(row) {
  const list = make("dl", { class: "facts" });
  for (const one of table.columns) {
    const value = one.values[row];
    if (value === null || one.name === "study_key") continue;
    const said = one.kind === "score" ? value.toFixed(4) : String(value).replaceAll(";", " ");
    list.append(make("div", { title: one.told }, make("dt", {}, one.label), make("dd", one.kind === "key" ? { class: "key" } : {}, said)));
  }
  return list;
}

function showScored(scores, pictures) {
  const view = { scores, pictures, network: 0, slice: best(scores, 0)[0], from: BOX_FROM, outline: true };
  const chart = make("div"), top = make("div"), scroll = make("div");
  const refresh = () => {
    chart.replaceChildren(slicesChart(view, refresh));
    if (pictures) top.replaceChildren(topSlices(view));
    if (pictures) scroll.replaceChildren(...viewer(view, refresh));
  };
  at("panel-body").append(controls(view, refresh), chart, top, scroll);
  if (!pictures) at("panel-body").append(make("p", {}, "No pictures of this study were kept (settings images_top, images_flag_at and images_mb of [run])."));
  refresh();
}

const best = (scores, network) =>
  scores.slice().sort((a, b) => b[3 + network] - a[3 + network]).map((slice) => slice[0]);

function controls(view, refresh) {
  const form = make("form", { "aria-label": "What is drawn" });
  form.addEventListener("submit", (event) => event.preventDefault());
  if (table.networks.length > 1) {
    const choice = make("select", {}, ...table.networks.map((name, number) => make("option", { value: number }, name)));
    choice.addEventListener("input", () => { view.network = Number(choice.value); refresh(); });
    form.append(make("label", {}, "network ", choice));
  }
  if (view.pictures) {
    const from = make("input", { type: "number", id: "box-from", min: 0, max: 1, step: 0.05, value: view.from });
    from.addEventListener("input", () => { view.from = Number(from.value); refresh(); });
    const outline = make("input", { type: "checkbox", id: "outline", checked: "" });
    outline.addEventListener("input", () => { view.outline = outline.checked; refresh(); });
    form.append(make("label", {}, "boxes of details scored above ", from), make("label", {}, outline, " lung outline"));
  }
  return form;
}

function slicesChart(view, refresh) {
  const [width, height, left, bottom, top] = [720, 170, 44, 34, 8];
  const z = view.scores.map((slice) => slice[1]), p = view.scores.map((slice) => slice[3 + view.network]);
  const [z0, z1] = [Math.min(...z), Math.max(...z)];
  const x = (mm) => left + ((mm - z0) / (z1 - z0 || 1)) * (width - left - 12);
  const y = (value) => height - bottom - value * (height - bottom - top);
  const said = `Probability of each of ${z.length} scored slices along z, from the lowest (${z0.toFixed(0)} mm) to the highest (${z1.toFixed(0)} mm): ${p.map((v) => v.toFixed(2)).join(", ")}`;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": said, style: "max-width:45rem;width:100%" });
  for (const value of [0, 0.5, 1]) {
    svg.append(draw("line", { class: "axis", x1: left, x2: width - 12, y1: y(value), y2: y(value), "stroke-dasharray": value ? "2 4" : "" }));
    svg.append(draw("text", { class: "axis-text", x: left - 8, y: y(value) + 4, "text-anchor": "end" }, value));
  }
  for (const mm of [z0, z1]) svg.append(draw("text", { class: "axis-text", x: x(mm), y: height - 18, "text-anchor": mm === z0 ? "start" : "end" }, `${mm.toFixed(0)} mm`));
  svg.append(draw("text", { class: "axis-text", x: width / 2, y: height - 4, "text-anchor": "middle" }, "z (towards the head to the right)"));
  svg.append(draw("polyline", { class: "chart-line", points: z.map((mm, n) => `${x(mm)},${y(p[n])}`).join(" ") }));
  view.scores.forEach((slice, n) => {
    const dot = draw("circle", { class: `chart-dot${slice[0] === view.slice ? " now" : ""}`, cx: x(z[n]), cy: y(p[n]), r: 5 });
    dot.append(draw("title", {}, `slice ${slice[0]}: ${p[n].toFixed(3)}, lung ${slice[2]} cm2`));
    dot.addEventListener("click", () => { view.slice = slice[0]; refresh(); });
    svg.append(dot);
  });
  return svg;
}

function topSlices(view) {
  const wanted = best(view.scores, view.network).slice(0, TOP);
  const row = make("div", { class: "row" }, ...wanted.map((index) => original(view, find(view, index))));
  return make("section", {}, make("h3", {}, `The ${wanted.length} slices that score highest`), row);
}

const find = (view, index) => view.pictures.slices.find((slice) => slice.index === index);
const scoreOf = (view, index) => view.scores.find((slice) => slice[0] === index)?.[3 + view.network];

function viewer(view, refresh) {
  const slices = view.pictures.slices, place = slices.findIndex((slice) => slice.index === view.slice);
  const slice = slices[place];
  const range = make("input", { type: "range", id: "scroll", min: 0, max: slices.length - 1, value: place, "aria-label": "slice" });
  range.setAttribute("aria-valuetext", caption(view, slice));
  range.addEventListener("input", () => {
    view.slice = slices[Number(range.value)].index;
    refresh();
    at("scroll").focus();
  });
  const pair = [original(view, slice), slice.seen ? seen(view, slice) : make("p", {}, "Left out: too little lung. No network saw it.")];
  return [
    make("h3", {}, `Every slice read: ${place + 1} of ${slices.length}`),
    make("p", {}, range),
    make("div", { class: "row" }, ...pair),
    ...(slice.seen ? [detailTable(view, slice)] : []),
  ];
}

function caption(view, slice) {
  const score = scoreOf(view, slice.index);
  return `slice ${slice.index}, z ${slice.z_mm.toFixed(0)} mm, ${score === undefined ? "left out" : `probability ${score.toFixed(3)}`}`;
}

function original(view, slice) {
  const [height, width] = view.pictures.size;
  return picture(view, slice, `Original: ${caption(view, slice)}`, slice.original, width, height, slice.lung, (detail) => detail.shown);
}

function seen(view, slice) {
  const size = view.pictures.image_px;
  const said = `What the network saw (crop and fill): slice ${slice.index}`;
  return picture(view, slice, said, slice.seen, size, size, slice.seen_lung, (detail) => detail.box);
}

function picture(view, slice, said, source, width, height, outline, edges) {
  const drawn = details(view, slice).map((detail, place) => ({ detail, place })).filter(({ detail }) => detail.probability > view.from);
  const boxes = drawn.length ? `${drawn.length} boxes: ${drawn.map(({ detail, place }) => tell(detail, place)).join("; ")}` : "no box";
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${said}; ${boxes}` });
  svg.append(draw("image", { href: `data:image/jpeg;base64,${source}`, width, height, preserveAspectRatio: "none" }));
  if (view.outline) for (const points of outline) svg.append(draw("polygon", { class: "outline", points }));
  for (const { detail, place } of drawn) svg.append(...boxOf(detail, place, edges(detail), width));
  const none = drawn.length ? "" : `; no detail above ${view.from}`;
  return make("figure", { class: "picture" }, svg, make("figcaption", {}, said + none));
}

const details = (view, slice) => slice.details?.[view.network] ?? [];
const tell = (detail, place) =>
  `${place + 1} scored ${detail.probability.toFixed(2)}${detail.lung_fraction < IN_FILL ? ", in the fill, no finding" : ""}`;

function boxOf(detail, place, [top, left, bottom, right], width) {
  const fill = detail.lung_fraction < IN_FILL ? " in-fill" : "";
  const edges = { x: left, y: top, width: right - left, height: bottom - top };
  const size = width / 28;
  const spot = { x: Math.max(left, 0) + size * 0.3, y: Math.max(top, 0) + size * 1.1, style: `font-size:${size}px;stroke-width:${size / 5}px` };
  return [
    draw("rect", { class: `box-halo${fill}`, ...edges }),
    draw("rect", { class: `box-line${fill}`, ...edges }),
    draw("text", { class: "tag", ...spot }, place + 1),
  ];
}

function detailTable(view, slice) {
  const head = ["detail", "normalised score", "attention", "original lung in it", "proposal score", "box in the stored image (top, left, bottom, right)"];
  const rows = details(view, slice).map((detail, place) => {
    const kind = place < 3 ? "small" : "large";
    const lung = `${(100 * detail.lung_fraction).toFixed(0)} %${detail.lung_fraction < IN_FILL ? ": in the fill, no finding" : ""}`;
    const numbers = [`${place + 1} (${kind})`, detail.probability.toFixed(3), detail.attention.toFixed(3), lung, detail.score.toFixed(3)];
    const cells = [...numbers, detail.original.map((edge) => edge.toFixed(0)).join(", ")];
    return make("tr", detail.probability > view.from ? { class: "now" } : {}, ...cells.map((said) => make("td", {}, said)));
  });
  const top = make("tr", {}, ...head.map((name) => make("th", { scope: "col" }, name)));
  return make("table", { class: "plain" }, make("caption", {}, "Details of this slice"), make("thead", {}, top), make("tbody", {}, ...rows));
}

// ---- the dialog ----

const leave = () => { if (location.hash.startsWith("#study=")) history.replaceState(null, "", "#studies"); };
at("close").addEventListener("click", () => at("panel").close());
at("panel").addEventListener("close", leave);
window.addEventListener("hashchange", followAddress);
