// A study's panel, of one study's data alone: studyPanel(study) gives an element that any page can show.
// study: {facts, networks, box_from, min_lung, scores, pictures, deep}; docs/report.md says what each is.
"use strict";

const TOP = 3;
const SVG = "http://www.w3.org/2000/svg";
const MOST_ZOOM = 12;
const CANVAS_PX = 768;

function attach(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
const make = (tag, attributes = {}, ...children) => attach(document.createElement(tag), attributes, children);
const draw = (tag, attributes = {}, ...children) => attach(document.createElementNS(SVG, tag), attributes, children);

function tableOf(title, head, rows, marked = () => false) {
  const top = make("tr", {}, ...head.map((name) => make("th", { scope: "col" }, name)));
  const body = rows.map((cells, place) => make("tr", marked(place) ? { class: "now" } : {}, ...cells.map((said) => make("td", {}, said))));
  const table = make("table", { class: "plain" }, make("caption", {}, title), make("thead", {}, top), make("tbody", {}, ...body));
  return make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": title }, table);
}

// ---- the panel ----

function studyPanel(study) {
  const body = make("div", { class: "panel" }, factsOf(study));
  if (!study.scores) {
    body.append(make("p", {}, "No slice of this study was scored."));
    return body;
  }
  const view = newView(study);
  const chart = make("div"), top = make("div"), scroll = make("div"), shares = make("div");
  view.refresh = () => {
    view.frames = [];
    chart.replaceChildren(make("div", { class: "row" }, slicesChart(view), ...coronal(view)));
    shares.replaceChildren(sharesOf(view));
    if (!view.pictures) return;
    top.replaceChildren(topSlices(view));
    scroll.replaceChildren(...viewer(view));
    paintAll(view);
  };
  body.append(controls(view), chart, top, scroll, shares);
  if (!view.pictures) body.append(make("p", {}, "No pictures of this study were kept (settings images_top, images_flag_at and images_mb of [run])."));
  view.refresh();
  takeDeep(view);
  return body;
}

// What a printed page shows: the facts, the slices' scores and the slices that score highest, with nothing to press.
function studyPrint(study) {
  const view = { ...newView(study), still: true };
  const body = make("div", { class: "panel" }, factsOf(study), make("div", { class: "row" }, slicesChart(view), ...coronal(view)));
  if (view.pictures) body.append(topSlices(view));
  paintAll(view);
  return body;
}

function newView(study) {
  const pictures = study.pictures, kind = () => ({ x: 0, y: 0, scale: 1 });
  return {
    study, pictures, scores: study.scores, network: 0, slice: best(study.scores, 0)[0], from: study.box_from, outline: true,
    inFill: false, shade: false, window: pictures?.window, zoom: { original: kind(), seen: kind() }, frames: [], deep: null,
    hu: new Map(), images: new Map(), refresh: () => {},
  };
}

function factsOf(study) {
  const list = make("dl", { class: "facts" });
  for (const { label, told, said, kind } of study.facts) {
    list.append(make("div", { title: told }, make("dt", {}, label), make("dd", kind === "key" ? { class: "key" } : {}, said)));
  }
  return list;
}

const best = (scores, network) =>
  scores.slice().sort((a, b) => b[3 + network] - a[3 + network]).map((slice) => slice[0]);
const find = (view, index) => view.pictures.slices.find((slice) => slice.index === index);
const scoreOf = (view, index) => view.scores.find((slice) => slice[0] === index)?.[3 + view.network];

// ---- what is drawn ----

const WINDOWS = { lung: { level: -600, width: 1500 }, mediastinal: { level: 40, width: 400 } };

function controls(view) {
  const form = make("form", { "aria-label": "What is drawn" });
  form.addEventListener("submit", (event) => event.preventDefault());
  if (view.study.networks.length > 1) {
    const choice = make("select", {}, ...view.study.networks.map((name, number) => make("option", { value: number }, name)));
    choice.addEventListener("input", () => { view.network = Number(choice.value); view.refresh(); });
    form.append(make("label", {}, "network ", choice));
  }
  if (view.pictures) form.append(...boxControls(view), windowControls(view));
  return form;
}

function boxControls(view) {
  const from = make("input", { type: "number", id: "box-from", min: 0, max: 1, step: 0.05, value: view.from });
  from.addEventListener("input", () => { view.from = Number(from.value); view.refresh(); });
  const label = make("label", {}, "boxes of details scored above ", from);
  const boxes = [label, check(view, "inFill", "in-fill", " boxes in the fill (no finding)"), check(view, "outline", "outline", " lung outline")];
  const known = view.pictures.slices.some((slice) => slice.without?.length);
  return known ? [...boxes, check(view, "shade", "shade", " shade details by their share of the score")] : boxes;
}

function check(view, name, id, said) {
  const box = make("input", view[name] ? { type: "checkbox", id, checked: "" } : { type: "checkbox", id });
  box.addEventListener("input", () => { view[name] = box.checked; view.refresh(); });
  return make("label", {}, box, said);
}

function windowControls(view) {
  const own = view.pictures.window;
  if (!view.study.deep || !own) return make("span", { class: "soft" }, "Only the picture as screened was kept: its window cannot be changed.");
  const presets = { "as the network saw": own, ...WINDOWS };
  const choice = make("select", { id: "window" }, ...Object.keys(presets).map((name) => make("option", {}, name)), make("option", {}, "own"));
  const level = make("input", { type: "number", id: "level", step: 10, value: own.level });
  const width = make("input", { type: "number", id: "width", step: 10, min: 1, value: own.width });
  const set = () => {
    view.window = { level: Number(level.value), width: Math.max(1, Number(width.value)) };
    paintAll(view);
  };
  choice.addEventListener("input", () => {
    const chosen = presets[choice.value];
    if (chosen) [level.value, width.value] = [chosen.level, chosen.width];
    set();
  });
  for (const field of [level, width]) field.addEventListener("input", () => { choice.value = "own"; set(); });
  const fields = make("fieldset", {}, make("legend", {}, "window"), make("label", {}, "preset ", choice));
  fields.append(make("label", {}, " level, HU ", level), make("label", {}, " width, HU ", width));
  return fields;
}

// ---- along z ----

function slicesChart(view) {
  const [width, height, left, bottom, top] = [window.innerWidth < 640 ? 380 : 720, 170, 44, 34, 8]; // its letters stay legible
  const z = view.scores.map((slice) => slice[1]), p = view.scores.map((slice) => slice[3 + view.network]);
  const [z0, z1] = [Math.min(...z), Math.max(...z)];
  const x = (mm) => left + ((mm - z0) / (z1 - z0 || 1)) * (width - left - 12);
  const y = (value) => height - bottom - value * (height - bottom - top);
  const said = `Probability of each of ${z.length} scored slices along z, from the lowest (${z0.toFixed(0)} mm) to the highest (${z1.toFixed(0)} mm): ${p.map((v) => v.toFixed(2)).join(", ")}`;
  const svg = draw("svg", { class: "along", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": said });
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
    dot.addEventListener("click", () => { view.slice = slice[0]; view.refresh(); });
    svg.append(dot);
  });
  return svg;
}

// The patient from the front, put together from the slices that were read, each of them a line.
function coronal(view) {
  const front = view.pictures?.coronal;
  if (!front) return [];
  const tall = front.z_top - front.z_bottom, wide = front.width_mm;
  const said = `The patient from the front, put together from the ${view.pictures.slices.length} slices read; a line a slice`;
  const svg = draw("svg", { viewBox: `0 0 ${wide} ${tall}`, role: "img", "aria-label": said });
  svg.append(draw("image", { href: `data:image/jpeg;base64,${front.image}`, width: wide, height: tall, preserveAspectRatio: "none" }));
  for (const slice of view.pictures.slices) {
    const y = Math.min(Math.max(front.z_top - slice.z_mm, 0.8), tall - 0.8), now = slice.index === view.slice ? " now" : "";
    const line = draw("line", { class: `read${slice.seen ? "" : " left-out"}${now}`, x1: 0, x2: wide, y1: y, y2: y });
    line.append(draw("title", {}, caption(view, slice)));
    if (!view.still) line.addEventListener("click", () => { view.slice = slice.index; view.refresh(); });
    svg.append(line);
  }
  const frame = make("div", { class: "frame" }, svg, ...letters(view, ["R", "L"]));
  return [make("figure", { class: "coronal" }, frame, make("figcaption", {}, `${said}; dashed: left out, too little lung`))];
}

// ---- the slices ----

function topSlices(view) {
  const wanted = best(view.scores, view.network).slice(0, TOP).map((index) => find(view, index)).filter(Boolean);
  const row = make("div", { class: "row dark" }, ...wanted.map((slice) => original(view, slice)));
  return make("section", {}, make("h3", {}, `The ${wanted.length} slices that score highest`), row);
}

function viewer(view) {
  const slices = view.pictures.slices, place = slices.findIndex((slice) => slice.index === view.slice);
  const slice = slices[place];
  const range = make("input", { type: "range", id: "scroll", min: 0, max: slices.length - 1, value: place, "aria-label": "slice" });
  range.setAttribute("aria-valuetext", caption(view, slice));
  range.addEventListener("input", () => {
    view.slice = slices[Number(range.value)].index;
    view.refresh();
    document.getElementById("scroll").focus();
  });
  const pair = [original(view, slice), slice.seen ? seen(view, slice) : make("p", {}, "Left out: too little lung. No network saw it.")];
  const hint = "Wheel over a chosen picture, two fingers, or plus and minus zoom; drag or arrows move; 0 shows it whole.";
  return [
    make("h3", {}, `Every slice read: ${place + 1} of ${slices.length}`),
    make("p", {}, range),
    make("div", { class: "row dark large" }, ...pair),
    make("p", { class: "soft" }, ...zoomButtons(view), ` ${hint}`),
    ...(slice.seen ? [detailTable(view, slice)] : []),
  ];
}

function zoomButtons(view) {
  const button = (said, factor, name) => {
    const one = make("button", { type: "button", "aria-label": name, title: name }, said);
    one.addEventListener("click", () => zoomBoth(view, factor));
    return one;
  };
  return [button("+", 1.5, "zoom in"), " ", button("\u2212", 1 / 1.5, "zoom out"), " ", button("whole", 0, "show the whole picture")];
}

function caption(view, slice) {
  const score = scoreOf(view, slice.index);
  return `slice ${slice.index}, z ${slice.z_mm.toFixed(0)} mm, ${score === undefined ? "left out" : `probability ${score.toFixed(3)}`}`;
}

function original(view, slice) {
  const [height, width] = view.pictures.size, [tall, wide] = view.pictures.spacing_mm ?? [1, 1];
  const look = { kind: "original", width, height, aspect: (width * wide) / (height * tall), outline: slice.lung, edges: (detail) => detail.shown };
  return picture(view, slice, `Original: ${caption(view, slice)}`, { ...look, width_mm: view.pictures.spacing_mm && width * wide });
}

function seen(view, slice) {
  const size = view.pictures.image_px, wide = view.pictures.spacing_mm?.[1];
  const look = { kind: "seen", width: size, height: size, aspect: 1, outline: slice.seen_lung, edges: (detail) => detail.box };
  const said = `What the network saw (crop and fill): slice ${slice.index}`;
  return picture(view, slice, said, { ...look, width_mm: wide && (slice.crop.right - slice.crop.left) * wide });
}

function picture(view, slice, said, look) {
  const drawn = drawnDetails(view, slice);
  const boxes = drawn.length ? `${drawn.length} boxes: ${drawn.map(({ detail, place }) => tell(view, detail, place)).join("; ")}` : "no box";
  const svg = draw("svg", { viewBox: `0 0 ${look.width} ${look.height}`, role: "img", preserveAspectRatio: "none", "aria-label": `${said}; ${boxes}` });
  if (view.outline) for (const points of look.outline) svg.append(draw("polygon", { class: "outline", points }));
  if (view.shade) svg.append(...shades(view, slice, look));
  for (const { detail, place } of drawn) svg.append(...boxOf(view, detail, place, look));
  const canvas = make("canvas", { width: CANVAS_PX, height: Math.round(CANVAS_PX / look.aspect), "aria-hidden": "true" });
  const scale = make("span", { class: "scale", "aria-hidden": "true" });
  const frame = make("div", { class: "frame" }, canvas, svg, scale, ...letters(view, ["R", "L", "A", "P"]));
  frame.style.aspectRatio = look.aspect;
  view.frames.push({ slice, look, canvas, svg, scale });
  if (!view.still) navigate(view, frame, look.kind);
  const none = drawn.length ? "" : `; no detail above ${view.from}`;
  return make("figure", { class: "picture" }, frame, make("figcaption", {}, said + none));
}

// Of exported pictures nobody knows which side is which.
const letters = (view, wanted) =>
  view.pictures.spacing_mm ? wanted.map((one) => make("span", { class: `letter letter-${one}`, "aria-hidden": "true" }, one)) : [];

const details = (view, slice) => slice.details?.[view.network] ?? [];
const isInFill = (view, detail) => detail.lung_fraction < view.study.min_lung;
const tell = (view, detail, place) => `${place + 1} scored ${detail.probability.toFixed(2)}${isInFill(view, detail) ? ", in the fill, no finding" : ""}`;

function drawnDetails(view, slice) {
  const numbered = details(view, slice).map((detail, place) => ({ detail, place }));
  return numbered.filter(({ detail }) => detail.probability > view.from && (view.inFill || !isInFill(view, detail)));
}

function rectangle([top, left, bottom, right]) {
  return { x: left, y: top, width: right - left, height: bottom - top };
}

function boxOf(view, detail, place, look) {
  const fill = isInFill(view, detail) ? " in-fill" : "";
  const edges = rectangle(look.edges(detail)), size = look.width / 28;
  const tag = draw("text", { class: "tag", x: Math.max(edges.x, 0) + size * 0.3, y: Math.max(edges.y, 0) + size * 1.1 }, place + 1);
  tag.style.fontSize = `${size}px`;
  tag.style.strokeWidth = `${size / 5}px`;
  return [draw("rect", { class: `box-halo${fill}`, ...edges }), draw("rect", { class: `box-line${fill}`, ...edges }), tag];
}

// ---- pictures on their canvas: the window, the zoom ----

function paintAll(view) {
  for (const frame of view.frames) paint(view, frame);
}

async function paint(view, frame) {
  const { canvas, svg, look, slice } = frame, zoom = view.zoom[look.kind], part = 1 / zoom.scale;
  svg.setAttribute("viewBox", [zoom.x * look.width, zoom.y * look.height, part * look.width, part * look.height].join(" "));
  scaleBar(frame.scale, look, part);
  const source = look.kind === "original" && view.deep ? await windowed(view, slice) : await preview(view, slice, look.kind);
  if (!source || view.zoom[look.kind] !== zoom) return;
  const context = canvas.getContext("2d");
  const edges = [zoom.x * source.width, zoom.y * source.height, part * source.width, part * source.height];
  context.drawImage(source, ...edges, 0, 0, canvas.width, canvas.height);
  canvas.dataset.painted = view.deep && look.kind === "original" ? "deep" : "preview";
}

function scaleBar(bar, look, part) {
  if (!look.width_mm) return;
  const shown = look.width_mm * part;
  const mm = [100, 50, 20, 10, 5, 2, 1].find((one) => one <= shown / 3) ?? 1;
  bar.style.width = `${(100 * mm) / shown}%`;
  bar.textContent = `${mm} mm`;
}

function preview(view, slice, kind) {
  const name = `${kind}-${slice.index}`;
  if (!view.images.has(name)) {
    const image = new Image();
    image.src = `data:image/jpeg;base64,${slice[kind]}`;
    view.images.set(name, image.decode().then(() => image, () => null));
  }
  return view.images.get(name);
}

async function takeDeep(view) {
  const deep = view.pictures && view.study.deep ? await view.study.deep() : null;
  if (!deep || typeof DecompressionStream === "undefined") return;
  view.deep = deep;
  paintAll(view);
}

async function windowed(view, slice) {
  const packed = view.deep.slices[slice.index];
  if (!packed) return preview(view, slice, "original");
  if (!view.hu.has(slice.index)) view.hu.set(slice.index, unpack(packed, view.deep));
  const hu = await view.hu.get(slice.index), { level, width } = view.window;
  const [rows, columns] = view.deep.size, canvas = make("canvas", { width: columns, height: rows });
  const image = new ImageData(columns, rows), grey = new Uint32Array(image.data.buffer);
  const low = level - width / 2;
  for (let n = 0; n < hu.length; n += 1) {
    const value = Math.max(0, Math.min(255, Math.round(((hu[n] - low) * 255) / width)));
    grey[n] = 0xff000000 | (value << 16) | (value << 8) | value;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

// The inverse of pictures.pack_slice: zlib, two planes of bytes, differences from what the neighbours foretell.
async function unpack(packed, { size: [rows, columns], step }) {
  const stream = new Blob([Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0))]).stream();
  const bytes = new Uint8Array(await new Response(stream.pipeThrough(new DecompressionStream("deflate"))).arrayBuffer());
  const n = rows * columns, values = new Int16Array(n);
  for (let place = 0, row = 0; row < rows; row += 1) {
    for (let column = 0; column < columns; column += 1, place += 1) {
      const left = column ? values[place - 1] : 0, above = row ? values[place - columns] : 0;
      const corner = row && column ? values[place - columns - 1] : 0;
      const low = Math.min(left, above), high = Math.max(left, above);
      const foretold = corner >= high ? low : corner <= low ? high : left + above - corner;
      const coded = bytes[place] | (bytes[n + place] << 8);
      values[place] = foretold + (coded & 1 ? -((coded + 1) >> 1) : coded >> 1);
    }
  }
  return values.map((value) => value * step - 1024);
}

function zoomTo(view, kind, scale, x, y) { // the point (x, y) of the picture, in parts of it, stays where it is
  const old = view.zoom[kind], now = Math.min(Math.max(scale, 1), MOST_ZOOM), kept = old.scale / now;
  setZoom(view, kind, { scale: now, x: x - (x - old.x) * kept, y: y - (y - old.y) * kept });
}

function setZoom(view, kind, { scale, x, y }) {
  const limit = (value) => Math.min(Math.max(value, 0), 1 - 1 / scale);
  view.zoom[kind] = { scale, x: limit(x), y: limit(y) };
  paintAll(view);
}

function zoomBoth(view, factor) {
  for (const kind of ["original", "seen"]) zoomMiddle(view, kind, factor);
}

function zoomMiddle(view, kind, factor) {
  const { scale, x, y } = view.zoom[kind];
  zoomTo(view, kind, scale * factor, x + 0.5 / scale, y + 0.5 / scale);
}

function pan(view, kind, x, y) { // by parts of what is shown
  const old = view.zoom[kind];
  setZoom(view, kind, { scale: old.scale, x: old.x + x / old.scale, y: old.y + y / old.scale });
}

function navigate(view, frame, kind) {
  attach(frame, { tabindex: 0, role: "group", "aria-label": `picture, ${kind}: plus and minus zoom, arrows move, 0 shows it whole` }, []);
  frame.addEventListener("keydown", (event) => pressed(view, kind, event));
  frame.addEventListener("wheel", (event) => {
    if (document.activeElement !== frame) return; // a page that is scrolled must not stop at a picture
    event.preventDefault();
    const [x, y] = pointed(view, frame, kind, event);
    zoomTo(view, kind, view.zoom[kind].scale * (event.deltaY < 0 ? 1.2 : 1 / 1.2), x, y);
  }, { passive: false });
  follow(view, frame, kind);
}

function pressed(view, kind, event) {
  const moves = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] };
  const factors = { "+": 1.5, "=": 1.5, "-": 1 / 1.5, 0: 0 };
  if (event.key in factors) zoomMiddle(view, kind, factors[event.key]);
  else if (event.key in moves && view.zoom[kind].scale > 1) pan(view, kind, ...moves[event.key]);
  else return;
  event.preventDefault();
}

function pointed(view, frame, kind, { clientX, clientY }) {
  const edges = frame.getBoundingClientRect(), { scale, x, y } = view.zoom[kind];
  return [x + (clientX - edges.left) / edges.width / scale, y + (clientY - edges.top) / edges.height / scale];
}

function follow(view, frame, kind) { // one finger or the mouse moves, two fingers zoom
  const held = new Map();
  const spread = () => { const [a, b] = held.values(); return Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY); };
  const settle = () => { frame.style.touchAction = view.zoom[kind].scale > 1 ? "none" : "pan-y"; };
  frame.addEventListener("pointerdown", (event) => { held.set(event.pointerId, event); frame.setPointerCapture(event.pointerId); });
  frame.addEventListener("pointermove", (event) => {
    const before = held.get(event.pointerId);
    if (!before) return;
    const edges = frame.getBoundingClientRect(), apart = held.size === 2 ? spread() : 0;
    held.set(event.pointerId, event);
    if (held.size === 2) zoomTo(view, kind, (view.zoom[kind].scale * spread()) / (apart || 1), ...pointed(view, frame, kind, event));
    else pan(view, kind, (before.clientX - event.clientX) / edges.width, (before.clientY - event.clientY) / edges.height);
    settle();
  });
  for (const name of ["pointerup", "pointercancel"]) frame.addEventListener(name, (event) => { held.delete(event.pointerId); settle(); });
  settle();
}

// ---- what made the score ----

const LOOKS = ["the whole slice", "the second look, at detail 4"];

function detailTable(view, slice) {
  const without = slice.without?.[view.network], score = scoreOf(view, slice.index);
  const head = ["detail", "normalised score", "attention", "original lung in it", "proposal score", "box in the stored image (top, left, bottom, right)"];
  const told = (place) => (without ? [without[place].toFixed(3), signed(score - without[place])] : []);
  const rows = details(view, slice).map((detail, place) => {
    const lung = `${(100 * detail.lung_fraction).toFixed(0)} %${isInFill(view, detail) ? ": in the fill, no finding" : ""}`;
    const numbers = [`${place + 1} (${place < 3 ? "small" : "large"})`, detail.probability.toFixed(3), detail.attention.toFixed(3), lung, detail.score.toFixed(3)];
    return [...numbers, detail.original.map((edge) => edge.toFixed(0)).join(", "), ...told(place)];
  });
  if (!without) return tableOf("Details of this slice", head, rows, (place) => drawnDetails(view, slice).some((one) => one.place === place));
  LOOKS.forEach((name, place) => rows.push([name, "", "", "", "", "", ...told(6 + place)]));
  const table = tableOf("Details of this slice", [...head, "slice's score without it", "share"], rows, (place) => drawnDetails(view, slice).some((one) => one.place === place));
  const said = "“Without it” was computed at screening from the network's last layer with that look's features left out and all else as it was (the other looks' attention weights stay). "
    + "The shares need not add up to the score, and do not say what the network would have looked at instead.";
  return make("div", {}, table, make("p", { class: "soft" }, said));
}

const signed = (number) => (number < 0 ? "\u2212" : "+") + Math.abs(number).toFixed(3);

function shades(view, slice, look) {
  const without = slice.without?.[view.network], score = scoreOf(view, slice.index);
  if (!without) return [];
  const shares = details(view, slice).map((_, place) => score - without[place]);
  const most = Math.max(...shares.map(Math.abs), 1e-6);
  return details(view, slice).map((detail, place) => {
    const shade = draw("rect", { class: shares[place] < 0 ? "lowers" : "raises", "fill-opacity": (0.5 * Math.abs(shares[place])) / most, ...rectangle(look.edges(detail)) });
    shade.append(draw("title", {}, `detail ${place + 1}: ${signed(shares[place])}`));
    return shade;
  });
}

// The study's score is the mean over its scored slices, so shares of it are exact.
function sharesOf(view) {
  const p = view.scores.map((slice) => slice[3 + view.network]), sum = p.reduce((a, b) => a + b, 0);
  const rows = view.scores.map(([index, z, lung], n) => {
    const rest = p.length > 1 ? ((sum - p[n]) / (p.length - 1)).toFixed(3) : "none";
    return [`${index}`, z.toFixed(0), `${lung}`, p[n].toFixed(3), `${((100 * p[n]) / (sum || 1)).toFixed(1)} %`, rest];
  });
  const head = ["slice", "z, mm", "lung, cm2", "probability", "share of the study's score", "study's score without it"];
  const said = `Share of each slice in the study's score, ${(sum / p.length).toFixed(3)}: the mean over its scored slices`;
  const table = tableOf(said, head, rows, (n) => view.scores[n][0] === view.slice);
  return make("details", {}, make("summary", {}, "What each slice adds to the study's score"), table);
}
