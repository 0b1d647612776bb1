// The page: which model and input are chosen, what is sent, and what is shown. Start here.

import { call, hasKey, Refusal, setKey } from "./api.js";
import { clearAnswer, showError, showPrediction, showSeveral } from "./answer.js";
import { runBatch } from "./batch.js";
import { showCode } from "./code.js";
import { byId, make, percent } from "./dom.js";
import { driftView } from "./drift.js";
import { findFeedback, offerFeedback, withdrawFeedback } from "./feedback.js";
import { closeInside, showInside } from "./inside.js";
import { markdown } from "./markdown.js";
import { Pad, thumbnail } from "./pad.js";
import { showWhy } from "./why.js";

const LIVE_MS = 50; // between two requests while one draws or types
const REST_MS = 250; // after the last stroke or key, when the final request is sent
const MAX_HISTORY = 24;

let models = [];
let model = null;
let mode = "draw";
let current = null; // what is explained and shown as code: {body, type, name, text}
let previewUrl = "";
let restTimer = 0;
let whyNumber = 0;

const pad = new Pad(byId("pad"), byId("pen"), onDraw);

// --- Sending: one request at a time, and always the latest input next ---

const sender = { isBusy: false, next: null, last: 0, number: 0 };

function send(make) {
  sender.next = make;
  if (!sender.isBusy) pump();
}

async function pump() {
  sender.isBusy = true;
  while (sender.next) {
    const wait = sender.last + LIVE_MS - performance.now();
    if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
    const make = sender.next, number = sender.number;
    sender.next = null;
    sender.last = performance.now();
    try {
      await answer(await make(), () => number === sender.number);
    } catch (error) {
      console.error(error);
    }
  }
  sender.isBusy = false;
}

// What was sent before is not shown any more.
function forgetSent() {
  sender.number += 1;
  sender.next = null;
  clearTimeout(restTimer);
  closeDetails();
}

async function answer(input, isWanted) {
  const asked = model;
  if (input.isFinal) current = input;
  try {
    const response = await call(`classify/${asked.name}${query()}`, { method: "POST", body: input.body, type: input.type });
    if (!isWanted()) return;
    const prediction = response.content.predictions[0];
    showPrediction(asked, prediction, response);
    byId("served").textContent = `${asked.name}, version ${response.content.version}`;
    if (input.isFinal) {
      remember(asked, input, prediction);
      offerFeedback(response.id, asked.labels, prediction.label ?? prediction.guess);
    } else {
      byId("actions").hidden = true;
      withdrawFeedback();
    }
  } catch (error) {
    if (!isWanted() || (!input.isFinal && error.status === 422)) return;
    showFailure(error, () => readSeveral(asked, input));
  }
}

function showFailure(error, onSeveral) {
  if (!(error instanceof Refusal)) throw error;
  showError(error, onSeveral);
}

async function readSeveral(asked, input) {
  const separator = query() ? "&" : "?";
  try {
    const response = await call(`classify/${asked.name}${query()}${separator}several=true`, { method: "POST", body: input.body, type: input.type });
    showSeveral(response.content.predictions, response, asked);
  } catch (error) {
    showFailure(error);
  }
}

function query() {
  const minimum = Number(byId("minimum").value);
  return minimum ? `?min_score=${(minimum / 100).toFixed(2)}` : "";
}

// --- Input ---

function onDraw(isDrawing) {
  byId("pad-empty").hidden = !pad.isEmpty;
  if (pad.isEmpty) {
    forgetSent();
    clearAnswer();
    return;
  }
  closeDetails();
  clearTimeout(restTimer);
  if (isDrawing) {
    const isFramed = model.input.framing === "mnist";
    send(async () => ({ body: await (isFramed ? pad.framedBlob() : pad.blob()), type: "image/png" }));
  } else {
    restTimer = setTimeout(() => send(drawn), REST_MS);
  }
}

async function drawn() {
  return { body: await pad.blob(), type: "image/png", name: "drawing.png", isFinal: true };
}

function onText() {
  const text = byId("words").value, count = Array.from(text).length;
  byId("count").textContent = count ? `${count.toLocaleString("en")} characters` : "";
  closeDetails();
  clearTimeout(restTimer);
  if (!text.trim()) {
    forgetSent();
    clearAnswer();
    return;
  }
  send(async () => typed(text, false));
  restTimer = setTimeout(() => send(async () => typed(text, true)), 3 * REST_MS);
}

const typed = (text, isFinal) => ({ body: JSON.stringify({ texts: [text] }), type: "application/json", text, isFinal });

async function onFiles(list) {
  const files = [...list];
  if (!files.length || !model) return;
  if (files.length > 1) {
    await runBatch(files, model, query());
    return;
  }
  forgetSent();
  if (isText()) {
    byId("words").value = await files[0].text();
    onText();
    return;
  }
  setMode("file");
  preview(files[0]);
  send(async () => ({ body: files[0], type: files[0].type || "application/octet-stream", name: files[0].name, isFinal: true }));
}

function preview(blob) {
  if (previewUrl) URL.revokeObjectURL(previewUrl);
  previewUrl = blob ? URL.createObjectURL(blob) : "";
  byId("preview").hidden = !blob;
  byId("drop-empty").hidden = Boolean(blob);
  if (blob) byId("preview").src = previewUrl;
}

byId("preview").addEventListener("error", () => { // a TIFF, or a file that is no image
  byId("preview").hidden = true;
  byId("drop-empty").hidden = false;
});

for (const id of ["pick", "photo", "pick-text"]) {
  byId(id).addEventListener("change", async (event) => {
    const files = [...event.target.files];
    event.target.value = "";
    await onFiles(files);
  });
}

document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("over");
});
document.addEventListener("drop", async (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  if (event.dataTransfer.files.length) await onFiles(event.dataTransfer.files);
});
document.addEventListener("paste", async (event) => {
  const files = [...event.clipboardData.files];
  if (files.length && !isText()) {
    event.preventDefault();
    await onFiles(files);
  } else if (isText() && event.target !== byId("words") && !byId("key").open) {
    byId("words").value = event.clipboardData.getData("text/plain");
    onText();
  }
});

byId("words").addEventListener("input", onText);
byId("clear-text").addEventListener("click", () => {
  byId("words").value = "";
  onText();
  byId("words").focus();
});
byId("undo").addEventListener("click", () => pad.undo());
byId("clear").addEventListener("click", () => pad.clear());
byId("mode-draw").addEventListener("click", () => { setMode("draw"); forgetSent(); clearAnswer(); onDraw(false); });
byId("mode-file").addEventListener("click", () => { setMode("file"); forgetSent(); clearAnswer(); preview(null); });
byId("minimum").addEventListener("input", () => {
  const value = Number(byId("minimum").value);
  byId("minimum-value").textContent = value ? `${value} %` : "off";
  if (current && !byId("actions").hidden) send(async () => current);
});

// --- Models ---

const isText = () => model?.input.kind === "text";

async function loadModels() {
  try {
    models = (await call("models")).content.models;
  } catch (error) {
    byId("hint").textContent = "The models cannot be listed.";
    showFailure(error);
    if (error.status === 503 || error.status === 0) setTimeout(loadModels, 2000);
    return;
  }
  const wanted = decodeURIComponent(location.hash.slice(1));
  byId("models").replaceChildren(byId("models").querySelector("legend"), ...models.map((each) => {
    const radio = make("input", { type: "radio", name: "model", value: each.name });
    radio.addEventListener("change", () => choose(each));
    return make("label", {}, radio, make("span", {}, each.name));
  }));
  if (!models.length) {
    byId("hint").textContent = "No model is served now.";
    setTimeout(loadModels, 2000);
    return;
  }
  choose(models.find((each) => each.name === wanted) || models.find((each) => each.input.framing === "mnist") || models[0]);
}

function choose(chosen) {
  model = chosen;
  history.replaceState(null, "", `#${model.name}`);
  for (const radio of document.getElementsByName("model")) radio.checked = radio.value === model.name;
  forgetSent();
  clearAnswer();
  current = null;
  byId("served").textContent = `${model.name}, version ${model.version}`;
  byId("card-button").disabled = false;
  byId("text").hidden = !isText();
  byId("modes").hidden = isText();
  const labels = model.labels.length > 6 ? `${model.labels.slice(0, 5).join(", ")} ... ${model.labels.at(-1)}` : model.labels.join(", ");
  byId("hint").textContent = `${isText() ? "A text" : "An image"}: ${model.name} chooses among ${labels}.`;
  if (isText()) {
    byId("draw").hidden = byId("file").hidden = true;
    onText();
  } else {
    setMode(model.input.mode === "L" ? "draw" : "file");
    preview(null);
    if (mode === "draw") onDraw(false);
  }
}

function setMode(chosen) {
  mode = chosen;
  byId("draw").hidden = mode !== "draw";
  byId("file").hidden = mode !== "file";
  byId("mode-draw").setAttribute("aria-pressed", String(mode === "draw"));
  byId("mode-file").setAttribute("aria-pressed", String(mode === "file"));
}

// --- Why?, Inside and Code ---

function closeDetails() {
  whyNumber += 1;
  byId("why").hidden = byId("code").hidden = true;
  byId("code-button").setAttribute("aria-expanded", "false");
  closeInside();
}

async function explain(label) {
  const asked = current, number = ++whyNumber;
  byId("why").hidden = false;
  if (!label) byId("why").replaceChildren(make("p", { className: "quiet", role: "status" }, "Looking for what counts ..."));
  const chosen = label ? `?label=${encodeURIComponent(label)}` : "";
  try {
    const { content } = await call(`explain/${model.name}${chosen}`, { method: "POST", body: asked.body, type: asked.type });
    if (number !== whyNumber) return;
    showWhy(content, model.labels, asked.text, explain);
    byId("why").scrollIntoView({ block: "nearest" });
    if (label) byId("why-label").focus();
  } catch (error) {
    if (number === whyNumber) byId("why").replaceChildren(make("p", { className: "note error" }, error.message));
  }
}

byId("why-button").addEventListener("click", () => explain());
byId("inside-button").addEventListener("click", () => {
  if (byId("inside").hidden) showInside(model, current);
  else closeInside();
});
byId("code-button").addEventListener("click", () => {
  const isOpen = !byId("code").hidden;
  byId("code").hidden = isOpen;
  byId("code-button").setAttribute("aria-expanded", String(!isOpen));
  if (!isOpen) showCode({ ...current, path: `classify/${model.name}${query()}` });
});

// --- History of the session ---

const past = [];

async function remember(asked, input, prediction) {
  if (past[0]?.input === input) past.shift().element.remove();
  const label = prediction.label ?? "not sure";
  const button = make("button", { type: "button" });
  const entry = { input, element: make("li", {}, button) };
  past.unshift(entry);
  byId("past").prepend(entry.element);
  while (past.length > MAX_HISTORY) past.pop().element.remove();
  byId("history").hidden = false;
  const image = input.text === undefined ? await thumbnail(input.body) : null;
  const what = input.text === undefined ? input.name : input.text.slice(0, 60);
  button.append(...(image ? [image] : []), make("span", {}, `${label} ${percent(prediction.score)}`, make("br"), make("small", { className: "quiet" }, what)));
  button.addEventListener("click", () => restore(asked, input));
}

function restore(asked, input) {
  if (model.name !== asked.name) choose(asked);
  forgetSent();
  if (input.text === undefined) {
    setMode("file");
    preview(input.body);
  } else {
    byId("words").value = input.text;
    byId("count").textContent = "";
  }
  send(async () => input);
}

byId("forget").addEventListener("click", () => {
  past.length = 0;
  byId("past").replaceChildren();
  byId("history").hidden = true;
});

// --- Dialogs ---

byId("card-button").addEventListener("click", async () => {
  try {
    const { content } = await call(`models/${model.name}`);
    showCard(content);
    byId("card").showModal();
    const drift = await call(`models/${model.name}/drift`);
    if (drift.content.model === content.name) byId("card-drift").replaceChildren(driftView(drift.content));
  } catch (error) {
    showFailure(error);
  }
});
byId("card-close").addEventListener("click", () => byId("card").close());

function showCard(content) {
  byId("card-drift").replaceChildren();
  byId("card-title").textContent = `${content.name}, version ${content.version}`;
  const tests = Object.entries(content.test_metrics).map(([name, metrics]) => [`Test on ${name}`,
    `${percent(metrics.accuracy)} of ${metrics.n.toLocaleString("en")} right`]);
  const facts = [["Labels", content.labels.join(", ")], ...tests, ["Parameters", content.parameters.toLocaleString("en")],
    ["Runs in", `${content.precision}, ${content.provider}`], ["Trained on", content.dataset], ["Published", content.created.slice(0, 10)]];
  byId("card-facts").replaceChildren(...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
  byId("card-text").replaceChildren(...markdown(content.card));
}

document.addEventListener("key-needed", (event) => {
  if (event.detail) byId("key-message").textContent = `The service does not accept this key: ${event.detail}.`;
  if (!byId("key").open) byId("key").showModal();
});
byId("key-form").addEventListener("submit", () => {
  setKey(byId("key-value").value);
  byId("key-value").value = "";
  if (hasKey()) {
    clearAnswer();
    if (models.length && current) send(async () => current);
    else loadModels();
  }
});

loadModels();
findFeedback();
