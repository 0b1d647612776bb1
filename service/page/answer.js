// One answer: label, calibrated bars, abstention and refusals in words, and where the time went.

import { advice, timings } from "./api.js";
import { byId, make, milliseconds, percent } from "./dom.js";

const SHOWN = 10;
const TIMES = { read: "read", queue: "wait", infer: "model" };

export function clearAnswer(text = "The answer appears here.") {
  byId("result").replaceChildren(make("p", { className: "quiet empty" }, text));
  byId("bars").replaceChildren();
  byId("times").textContent = "";
  byId("actions").hidden = true;
  byId("feedback").hidden = true;
}

export function showPrediction(model, prediction, answer) {
  const guess = prediction.guess || prediction.label;
  const parts = [];
  if (prediction.label === null) {
    parts.push(make("p", { className: "label" }, make("b", {}, "Not sure")));
    parts.push(make("p", { className: "note" }, `The model abstains: its best guess, ${guess}, has ${percent(prediction.score)}, ` +
      `which is below the ${byId("minimum-value").textContent} that you asked for.`));
  } else {
    parts.push(make("p", { className: "label" }, make("b", {}, prediction.label), make("span", {}, percent(prediction.score))));
  }
  if (prediction.truncated) {
    parts.push(make("p", { className: "note" }, `The text is longer than the model reads: it read ${prediction.tokens_read} of ${prediction.tokens} tokens.`));
  }
  const result = byId("result");
  if (result.textContent !== parts.map((part) => part.textContent).join("")) result.replaceChildren(...parts);
  showBars(prediction.scores, guess);
  showTimes(model, answer);
  byId("actions").hidden = false;
}

export function showSeveral(predictions, answer, model) {
  const labels = predictions.map((prediction) => prediction.label ?? "?");
  byId("result").replaceChildren(
    make("p", { className: "label" }, make("b", {}, labels.join(" ")), make("span", {}, `${labels.length} digits`)),
    make("p", { className: "note" }, predictions.map((prediction) => `${prediction.label ?? "not sure"}: ${percent(prediction.score)}`).join(", ")),
  );
  byId("bars").replaceChildren();
  showTimes(model, answer);
  byId("actions").hidden = true;
  byId("feedback").hidden = true;
}

export function showError(error, onSeveral) {
  clearAnswer();
  const todo = advice(error);
  const note = make("div", { className: "note error" }, make("p", {}, make("strong", {}, title(error))), make("p", {}, sentence(error.message)),
    todo ? make("p", { className: "quiet" }, todo) : null);
  if (error.code === "several_digits" && onSeveral) {
    note.append(make("div", { className: "row" }, make("button", { type: "button", onclick: onSeveral }, "Read each digit")));
  }
  byId("result").replaceChildren(note);
}

function title(error) {
  if (error.status === 0) return "No connection";
  if (error.status === 429 || error.status === 503 || error.status === 504) return "The service is busy";
  if (error.status === 401 || error.status === 403) return "A key is needed";
  return error.status >= 500 ? "The service failed" : "Not classified";
}

export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

// The bars keep their order of labels while one draws if all fit; others are sorted by probability.
function showBars(scores, best) {
  const bars = byId("bars"), labels = Object.keys(scores);
  const shown = labels.length <= SHOWN ? [...labels].sort((a, b) => a.localeCompare(b, undefined, { numeric: true })) : labels.slice(0, SHOWN);
  if (shown.join("\n") !== [...bars.children].map((line) => line.dataset.label).join("\n")) {
    bars.replaceChildren(...shown.map((label) => make("div", { className: "bar-line" },
      make("span", { className: "name", title: label }, label),
      make("div", { className: "track", "aria-hidden": "true" }, make("div", { className: "fill" })),
      make("span", { className: "value" }))));
    [...bars.children].forEach((line, place) => { line.dataset.label = shown[place]; });
    bars.classList.toggle("short", shown.every((label) => label.length < 3));
  }
  for (const line of bars.children) {
    const score = scores[line.dataset.label];
    line.classList.toggle("first", line.dataset.label === best);
    line.querySelector(".fill").style.transform = `scaleX(${score})`;
    line.querySelector(".value").textContent = percent(score);
  }
}

function showTimes(model, { ms, timing }) {
  const parts = timings(timing), total = (parts.find(([name]) => name === "total") || ["", 0])[1];
  const words = parts.filter(([name]) => TIMES[name]).map(([name, value]) => `${TIMES[name]} ${milliseconds(value)}`);
  byId("times").textContent = `${[...words, `network and browser ${milliseconds(Math.max(ms - total, 0))}`].join(" · ")}${calibration(model)}`;
}

function calibration(model) {
  const [name, metrics] = Object.entries(model.test_metrics)[0] || [];
  if (!name) return "";
  return `. On ${metrics.n.toLocaleString("en")} test items (${name}) ${percent(metrics.accuracy)} were right, and the probabilities were off by ${percent(metrics.ece)} on average.`;
}
