// The run's page: the table of studies and the dialog that shows one. Data files call drenet.put(name, value), and are loaded when
// asked for: `studies` says what there is, rows-N hold the table's rows by hundreds, column-N one column whole, to sort and filter by.
"use strict";

const PAGE = 25;

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
        if (waiting[name]) return waiting[name].push(resolve);
        waiting[name] = [resolve];
        const script = document.createElement("script");
        script.src = `data/${name}.js`;
        script.onerror = () => { for (const tell of waiting[name] || []) tell(null); delete waiting[name]; };
        document.head.append(script);
      });
    },
  };
})();

const at = (id) => document.getElementById(id);
const count = (number) => number.toLocaleString("en");
const isNumber = (one) => one.kind === "score" || one.kind === "number";

let table, shown, sorted, page = 0, asked = 0;
const wanted = {}; // column -> what its filter says
const hidden = new Set();

function begin(data) {
  table = data;
  sorted = { name: data.doubted ? null : data.networks[0], way: -1 }; // null: as the files lie, the doubted first
  const narrow = window.matchMedia("(max-width: 40rem)").matches;
  for (const one of data.columns) if (narrow && !one.first) hidden.add(one.name);
  at("columns").append(...data.columns.map(chooser));
  at("find").addEventListener("input", () => renew());
  at("filters").addEventListener("reset", () => setTimeout(clear));
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  at("download").addEventListener("click", download);
  at("previous").addEventListener("click", () => turn(-1));
  at("next").addEventListener("click", () => turn(1));
  head();
  renew();
  printTop();
  followAddress();
}

// ---- values ----

const placeOf = (name) => table.columns.findIndex((one) => one.name === name);

async function valuesOf(name) { // of all rows, in the order of the files
  const place = placeOf(name), file = await drenet.get(`column-${place}`);
  if (file?.choices) Object.assign(file, { values: file.codes.map((code) => (code === null ? null : file.choices[code])), choices: null });
  return file?.values ?? [];
}

async function rowsOf(numbers) {
  const files = new Map();
  for (const number of numbers) files.set(Math.floor(number / table.chunk), null);
  await Promise.all([...files.keys()].map(async (chunk) => files.set(chunk, await drenet.get(`rows-${chunk}`))));
  return numbers.map((number) => files.get(Math.floor(number / table.chunk))?.[number % table.chunk] ?? []);
}

// ---- sorting and filtering ----

async function renew() {
  const turn_ = (asked += 1);
  const order = await sortedRows(), tests = await filters();
  if (turn_ !== asked) return;
  shown = tests.length ? order.filter((row) => tests.every((passes) => passes(row))) : order;
  page = 0;
  await fill();
}

async function sortedRows() {
  const order = Array.from({ length: table.n }, (_, row) => row);
  if (sorted.name === null || (!table.doubted && sorted.name === table.networks[0] && sorted.way < 0)) return order; // so the files lie
  const values = await valuesOf(sorted.name);
  return order.sort((a, b) => compare(values[a], values[b], sorted.way) || a - b);
}

function compare(a, b, way) { // what is missing comes last, whichever way
  if (a === null || b === null) return (a === null) - (b === null);
  return a < b ? -way : a > b ? way : 0;
}

async function filters() {
  const words = at("find").value.trim().toLowerCase();
  const tests = await Promise.all(Object.entries(wanted).map(async ([name, said]) => testOf(table.columns[placeOf(name)], said, await valuesOf(name))));
  if (words) {
    const texts = await Promise.all(table.columns.filter((one) => !isNumber(one)).map((one) => valuesOf(one.name)));
    tests.push((row) => texts.some((values) => values[row] !== null && String(values[row]).toLowerCase().includes(words)));
  }
  return tests;
}

function testOf(one, said, values) {
  if (isNumber(one)) {
    const [low, high] = range(said);
    return (row) => values[row] !== null && values[row] >= low && values[row] <= high;
  }
  if (one.choices) return (row) => values[row] === said;
  return (row) => values[row] !== null && values[row].toLowerCase().includes(said.toLowerCase());
}

// ">=0.5", "<3", "0.2..0.8" or "5" as [least, most]; null where it is none of these.
function range(said) {
  const text = said.replaceAll(" ", ""), number = "(-?\\d*\\.?\\d+(?:e-?\\d+)?)";
  const [, sign, edge] = new RegExp(`^(>=|<=|>|<|=?)${number}$`, "i").exec(text) ?? [];
  const [, low, high] = new RegExp(`^${number}?\\.\\.${number}?$`, "i").exec(text) ?? [];
  if (edge === undefined) return low === undefined && high === undefined ? null : [Number(low ?? -Infinity), Number(high ?? Infinity)];
  const value = Number(edge), tiny = Math.max(Math.abs(value), 1) * 1e-12;
  return { ">=": [value, Infinity], ">": [value + tiny, Infinity], "<=": [-Infinity, value], "<": [-Infinity, value - tiny] }[sign] ?? [value, value];
}

function sortBy(name, way) {
  sorted = { name, way };
  tellSorted();
  return renew();
}

function clear() {
  for (const name of Object.keys(wanted)) delete wanted[name];
  head();
  renew();
}

// ---- the table ----

function head() {
  const columns = visible();
  at("table").tHead.replaceChildren(make("tr", {}, ...columns.map(header)), make("tr", { class: "filter" }, ...columns.map(filterCell)));
  tellSorted();
}

const visible = () => table.columns.filter((one) => !hidden.has(one.name));

function chooser(one) {
  const box = make("input", hidden.has(one.name) ? { type: "checkbox" } : { type: "checkbox", checked: "" });
  box.addEventListener("input", () => {
    if (box.checked) hidden.delete(one.name);
    else hidden.add(one.name);
    const filtered = !box.checked && one.name in wanted;
    delete wanted[one.name];
    head();
    return filtered ? renew() : fill();
  });
  return make("label", { title: one.told }, box, ` ${one.label}`);
}

function header(one) {
  const button = make("button", { type: "button", title: one.told }, one.label);
  button.addEventListener("click", () => sortBy(one.name, sorted.name === one.name ? -sorted.way : isNumber(one) ? -1 : 1));
  return make("th", { scope: "col", "data-name": one.name }, button);
}

function tellSorted() {
  for (const cell of at("table").tHead.rows[0].cells) {
    const said = cell.dataset.name !== sorted.name ? "none" : sorted.way > 0 ? "ascending" : "descending";
    cell.setAttribute("aria-sort", said);
    const name = cell.firstChild.textContent.replace(/ [\u25b2\u25bc]$/, "");
    cell.firstChild.textContent = name + { none: "", ascending: " \u25b2", descending: " \u25bc" }[said];
  }
}

function filterCell(one) {
  const about = { "aria-label": `filter ${one.label}`, "data-name": one.name };
  const field = one.choices
    ? make("select", about, make("option", { value: "" }, "all"), ...one.choices.map((value) => make("option", { value }, value)))
    : make("input", { ...about, type: "text", size: isNumber(one) ? 6 : 8, placeholder: isNumber(one) ? ">= 0.5" : "contains", title: isNumber(one) ? "5, >=0.5, <3 or 0.2..0.8" : "a part of it", autocomplete: "off" });
  field.value = wanted[one.name] ?? "";
  field.addEventListener("input", () => {
    const wrong = field.value.trim() && isNumber(one) && !range(field.value);
    field.setAttribute("aria-invalid", Boolean(wrong));
    if (field.value.trim() && !wrong) wanted[one.name] = field.value.trim();
    else delete wanted[one.name];
    renew();
  });
  return make("td", {}, field);
}

function turn(by) {
  page += by;
  fill();
}

async function fill() {
  const last = Math.max(0, Math.ceil(shown.length / PAGE) - 1);
  page = Math.min(Math.max(page, 0), last);
  const numbers = shown.slice(page * PAGE, (page + 1) * PAGE), now = `${asked} ${page}`;
  const rows = await rowsOf(numbers);
  if (now !== `${asked} ${page}`) return;
  const columns = visible().map((one) => [one, placeOf(one.name)]);
  at("table").tBodies[0].replaceChildren(...rows.map((row) => make("tr", {}, ...columns.map(([one, place]) => cell(one, row[place])))));
  at("shown").textContent = `${count(shown.length)} of ${count(table.n)} studies`;
  at("page").textContent = `page ${count(page + 1)} of ${count(last + 1)}`;
  at("previous").disabled = page === 0;
  at("next").disabled = page === last;
}

function cell(one, value) {
  if (value === null || value === undefined) return make("td");
  if (one.name === "study_key") {
    const key = make("button", { type: "button", class: "key", title: `open study ${value}` }, short(value));
    key.addEventListener("click", () => { location.hash = `study=${value}`; });
    return make("td", { title: value }, key);
  }
  if (one.kind === "key") return make("td", { title: value, class: "key" }, short(value));
  if (one.kind === "score") {
    const part = make("i");
    part.style.width = `${100 * value}%`;
    return make("td", {}, make("span", { class: "bar", "aria-hidden": "true" }, part), value.toFixed(3));
  }
  return make("td", one.kind === "number" ? { class: "n" } : {}, String(value).replaceAll(";", " "));
}

const short = (key) => key.slice(0, 10);

// ---- what is shown, as a file ----

async function csv() {
  const columns = visible(), values = await Promise.all(columns.map((one) => valuesOf(one.name)));
  const quoted = (value) => (value === null ? "" : /[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
  const lines = [columns.map((one) => one.name), ...shown.map((row) => values.map((of) => of[row]))];
  return lines.map((line) => `${line.map(quoted).join(",")}\n`).join("");
}

async function download() {
  const link = make("a", { href: URL.createObjectURL(new Blob([await csv()], { type: "text/csv" })), download: "studies-shown.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// ---- a study ----

async function studyAt(number) {
  const [row] = await rowsOf([number]), key = row[placeOf("study_key")];
  const scores = (await drenet.get(`slices-${Math.floor(number / table.chunk)}`))?.[key];
  const pictures = row[placeOf("pictured")] ? await drenet.get(`images-${key}`) : null;
  const deep = pictures?.deep ? () => drenet.get(`deep-${key}`) : null;
  const { networks, box_from, min_lung } = table;
  return { key, facts: factsAt(row), networks, box_from, min_lung, scores, pictures, deep };
}

function factsAt(row) {
  const facts = table.columns.map((one, place) => ({ ...one, value: row[place] }));
  const told = facts.filter(({ name, value }) => value !== null && name !== "study_key");
  return told.map((one) => ({ ...one, said: one.kind === "score" ? one.value.toFixed(4) : String(one.value).replaceAll(";", " ") }));
}

async function followAddress() {
  const key = /^#study=(.+)$/.exec(location.hash)?.[1];
  const number = key && table ? (await valuesOf("study_key")).indexOf(decodeURIComponent(key)) : -1;
  if (number < 0) return at("panel").close();
  if (!at("panel").open) at("panel").showModal();
  at("panel-title").textContent = `Study ${decodeURIComponent(key)}`;
  at("panel-body").replaceChildren(make("p", {}, "loading ..."));
  const study = await studyAt(number);
  if (at("panel-title").textContent === `Study ${study.key}`) at("panel-body").replaceChildren(studyPanel(study));
}

async function printTop() {
  for (const number of table.printed) {
    const study = await studyAt(number);
    at("printed").append(make("section", {}, make("h2", {}, `Study ${study.key}`), studyPrint(study)));
  }
}

// ---- the dialog ----

const leave = () => { if (location.hash.startsWith("#study=")) history.replaceState(null, "", "#studies"); };
at("close").addEventListener("click", () => at("panel").close());
at("panel").addEventListener("close", leave);
window.addEventListener("hashchange", followAddress);
