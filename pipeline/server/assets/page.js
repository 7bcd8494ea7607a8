// Send a study, follow it, show its answer. Nothing comes from elsewhere, and nothing is kept in the browser.
"use strict";

const STAGES = { index: "headers", read: "slices", lung: "lungs", prepare: "fill and window", infer: "network", write: "tables", page: "page", dicom: "DICOM objects" };
const AGAIN_MS = 2000;
const PART = 8 << 20;
const at = (id) => document.getElementById(id);
let study = null, sending = null, clock = null, chosen = [];

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const headers = () => (at("token").value ? { Authorization: `Bearer ${at("token").value}` } : {});
const call = (path, options = {}) => fetch(path, { ...options, headers: headers() });

// ---- what is chosen ----

function choose(files) {
  chosen = files;
  const bytes = files.reduce((sum, one) => sum + one.file.size, 0);
  say(files.length ? `${files.length} ${files.length === 1 ? "file" : "files"}, ${(bytes / 1e6).toFixed(1)} MB: ready to send` : "No file is chosen.");
}

for (const id of ["files", "folder"]) {
  at(id).addEventListener("change", () => {
    choose([...at(id).files].map((file) => ({ file, name: file.webkitRelativePath || file.name })));
  });
}

for (const name of ["dragenter", "dragover"]) at("drop").addEventListener(name, (event) => { event.preventDefault(); at("drop").classList.add("over"); });
at("drop").addEventListener("dragleave", () => at("drop").classList.remove("over"));
at("drop").addEventListener("drop", async (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
  choose((await Promise.all(entries.map(filesOf))).flat());
});

async function filesOf(entry) {
  if (entry.isFile) return [{ file: await new Promise((done, failed) => entry.file(done, failed)), name: entry.fullPath }];
  const reader = entry.createReader(), inside = [];
  for (;;) { // a reader gives a hundred at a time
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (!some.length) break;
    inside.push(...some);
  }
  return (await Promise.all(inside.map(filesOf))).flat();
}

// ---- sending ----

function say(text) {
  at("state").hidden = false;
  at("said").textContent = text;
}

function complain(said) {
  at("problem").replaceChildren(make("h2", {}, said.title || said.code), make("p", {}, said.detail || ""), make("p", {}, `What to do: ${said.cure || "try again"}.`), make("p", { class: "code" }, said.code || ""));
  at("problem").hidden = false;
  if (said.code === "TOKEN_MISSING") at("locked").hidden = false;
}

function busy(is) {
  at("go").disabled = is;
  at("cancel").hidden = !is;
}

at("send").addEventListener("submit", async (event) => {
  event.preventDefault();
  for (const id of ["problem", "results", "rest"]) at(id).hidden = true;
  if (!chosen.length) return say("Choose a study first.");
  study = null;
  stages("");
  at("sent").hidden = false;
  busy(true);
  const mine = (sending = { request: null, id: null });
  try {
    study = chosen.length === 1 ? await sendInParts(mine, chosen[0]) : await sendWhole(mine, chosen);
  } catch (refused) {
    if (sending !== mine) return undefined; // cancelled
    busy(false);
    say("Not taken.");
    return complain(refused);
  } finally {
    if (sending === mine) sending = null;
    at("sent").hidden = true;
  }
  return follow(study);
});

async function sendWhole(mine, files) {
  const body = new FormData();
  for (const { file, name } of files) body.append("files", file, name);
  const request = await exchange(mine, "POST", "/v1/studies", body, {}, sentSoFar);
  return JSON.parse(request.responseText).id;
}

// One file can be gone on with where the line broke: tus, as docs/server.md says.
async function sendInParts(mine, { file, name }) {
  const named = btoa(Array.from(new TextEncoder().encode(name), (byte) => String.fromCharCode(byte)).join(""));
  const begun = await exchange(mine, "POST", "/v1/uploads", null, { "Upload-Length": file.size, "Upload-Metadata": `filename ${named}` });
  const path = begun.getResponseHeader("Location");
  mine.id = path.split("/").pop();
  let here = 0;
  while (here < file.size) {
    const from = here;
    try {
      await exchange(mine, "PATCH", path, file.slice(from, from + PART), { "Upload-Offset": from, "Content-Type": "application/offset+octet-stream" }, (loaded) => sentSoFar(from + loaded, file.size));
      here = Math.min(from + PART, file.size);
    } catch (refused) {
      if (!["CONNECTION_LOST", "WRONG_OFFSET", "DRAINING"].includes(refused.code)) throw refused;
      here = await hereAgain(mine, path, from);
    }
  }
  return mine.id;
}

async function hereAgain(mine, path, before) {
  say(`The connection broke off at ${(before / 1e6).toFixed(1)} MB. It is tried again, and goes on there.`);
  for (;;) {
    await new Promise((go) => setTimeout(go, AGAIN_MS));
    try {
      return Number((await exchange(mine, "HEAD", path, null, {})).getResponseHeader("Upload-Offset"));
    } catch (refused) {
      if (refused.code !== "CONNECTION_LOST") throw refused;
    }
  }
}

function sentSoFar(loaded, total) {
  at("sent").value = total ? loaded / total : 0;
  say(`Sent ${(loaded / 1e6).toFixed(1)} of ${(total / 1e6).toFixed(1)} MB`);
}

// A request whose progress can be seen, which fetch cannot tell; rejects with the problem.
function exchange(mine, method, path, body, more, progress = () => {}) {
  return new Promise((done, refused) => {
    const lost = { code: "CONNECTION_LOST", title: "The connection broke off", cure: "send it again" };
    if (sending !== mine) return refused({ code: "CANCELLED" });
    const request = (mine.request = new XMLHttpRequest());
    request.open(method, path);
    for (const [name, value] of Object.entries({ ...headers(), ...more })) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", ({ loaded, total }) => progress(loaded, total));
    request.addEventListener("load", () => (request.status < 300 ? done(request) : refused(problemIn(request))));
    request.addEventListener("error", () => refused(lost));
    request.addEventListener("abort", () => refused({ code: "CANCELLED" }));
    return request.send(body);
  });
}

function problemIn(request) {
  try {
    return JSON.parse(request.responseText);
  } catch {
    return { code: request.status === 404 ? "NO_SUCH_STUDY" : `HTTP ${request.status}`, title: "It was not taken", cure: "send it again" };
  }
}

at("cancel").addEventListener("click", async () => {
  if (sending) {
    const { request, id } = sending;
    sending = null;
    request?.abort();
    busy(false);
    at("sent").hidden = true;
    say("Cancelled before it was sent.");
    if (id) await call(`/v1/studies/${id}`, { method: "DELETE" });
    return undefined;
  }
  await call(`/v1/studies/${study}`, { method: "DELETE" });
  return undefined;
});

// ---- following ----

function stages(now) {
  const names = Object.keys(STAGES), place = names.indexOf(now);
  at("stages").replaceChildren(...names.map((name, n) => make("li", { class: n === place ? "now" : n < place ? "over" : "" }, STAGES[name])));
}

async function follow(id) {
  let last = "";
  while (id === study && !["done", "failed", "cancelled"].includes(last)) {
    try {
      last = await listen(id);
    } catch {
      last = ""; // the server may be starting again: the study waits on its disk
    }
    if (!last) await new Promise((go) => setTimeout(go, AGAIN_MS));
  }
  if (id !== study) return;
  busy(false);
  at("stages").replaceChildren();
  if (last === "cancelled") say("Cancelled. What was sent is deleted.");
  else await show(id, true);
}

async function listen(id) { // fetch, for an EventSource cannot send the token
  const answer = await call(`/v1/studies/${id}/events`);
  if (!answer.ok) {
    complain(await answer.json());
    return "failed";
  }
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "", state = "", shown = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return ["done", "failed", "cancelled"].includes(state) ? state : "";
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const data of events.map((one) => /^data: (.*)$/m.exec(one)?.[1]).filter(Boolean)) {
      const news = JSON.parse(data);
      state = news.state;
      tell(news);
      if (news.n_results > shown) {
        shown = news.n_results;
        await show(id, false);
      }
    }
  }
}

function tell(news) {
  if (news.state === "queued") say(news.place > 1 ? `Waiting: ${news.place - 1} before it` : "Waiting: it is the next");
  if (news.state === "running") {
    say("Being screened");
    stages(news.stage);
  }
}

// ---- the answer ----

async function show(id, whole) {
  const answer = await call(`/v1/studies/${id}`);
  const said = await answer.json();
  if (!answer.ok) return complain(said);
  at("results").replaceChildren(...said.results.map((result) => card(result, said)));
  at("results").hidden = !said.results.length;
  if (!whole) return undefined;
  say(said.state === "done" ? `Answered in ${(said.ended - said.created).toFixed(1)} s` : "No answer.");
  if (said.state === "failed") complain({ code: said.code, title: "It could not be screened", cure: said.cure, detail: leftOut(said) });
  finish(said);
  return undefined;
}

const plain = (said, code) => { const one = said.explained[code]; return one ? `${one.means}. What to do: ${one.cure}` : ""; };
const leftOut = (said) => said.left_out.filter((one) => one.code !== "UNPACKED").map((one) => `${one.count} x ${one.code}: ${plain(said, one.code)}`).join("; ");

function card(result, said) {
  const node = make("article", { class: "study" }, make("h2", { class: "code" }, `Study ${result.study_key}`));
  (result.probabilities || []).forEach((value, number) => node.append(...score(value, said.networks[number], result)));
  if (result.reason) node.append(make("p", {}, make("strong", {}, `${result.status}: ${result.reason}. `), plain(said, result.reason)));
  for (const code of result.warnings || []) node.append(make("p", {}, make("strong", {}, `Warning ${code}: `), plain(said, code)));
  return node;
}

function score(value, network, result) {
  const limit = network.threshold;
  const side = limit === undefined || limit === null ? "its network states no operating threshold" : `${value >= limit ? "at or above" : "below"} the network's operating threshold of ${limit.toFixed(3)}`;
  const meant = `mean over ${result.slices.length} slices of the probability of “${network.positive}”; ${side}.`;
  return [make("p", { class: "score" }, value.toFixed(3)), make("p", {}, `${network.column}: ${meant} `, network.meaning ? `What it means: ${network.meaning}.` : "")];
}

function finish(said) {
  const names = ["answer.json", ...(said.files || []).map((one) => one.name)];
  at("downloads").replaceChildren(...names.map((name) => {
    const button = make("button", { type: "button" }, name);
    button.addEventListener("click", () => download(said.id, name));
    return make("li", {}, button);
  }));
  at("rest").hidden = said.state !== "done";
  const panels = Object.entries(said.panels);
  if (panels.length) at("panel").src = panels[0][1];
  at("which").replaceChildren(...panels.map(([key, address]) => new Option(key, address)));
  at("which").parentElement.hidden = panels.length < 2;
  clearInterval(clock);
  clock = setInterval(() => countDown(said.expires), 1000);
  countDown(said.expires);
}

function countDown(expires) {
  const left = Math.max(0, Math.round(expires - Date.now() / 1000));
  const [hours, minutes] = [Math.floor(left / 3600), Math.floor(left / 60) % 60];
  at("kept").textContent = `Kept for ${hours} h ${minutes} min ${left % 60} s more, then deleted.`;
}

async function download(id, name) {
  const answer = await call(`/v1/studies/${id}/files/${name}`);
  if (!answer.ok) return complain(await answer.json());
  const address = URL.createObjectURL(await answer.blob());
  make("a", { href: address, download: name.replaceAll("/", "-") }).click();
  URL.revokeObjectURL(address);
  return undefined;
}

at("which").addEventListener("change", () => { at("panel").src = at("which").value; });

at("forget").addEventListener("click", async () => {
  await call(`/v1/studies/${study}`, { method: "DELETE" });
  clearInterval(clock);
  for (const id of ["results", "rest"]) at(id).hidden = true;
  at("panel").removeAttribute("src");
  say("Deleted.");
});
