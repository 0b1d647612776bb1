// Many files: a sortable table with thumbnails, progress, and a CSV file.

import { advice, call } from "./api.js";
import { sentence } from "./answer.js";
import { byId, make, percent } from "./dom.js";
import { thumbnail } from "./pad.js";

const PARALLEL = 4, MAX_TRIES = 6;
let rows = [], stop = null, sorted = { key: "", isDescending: false };

export async function runBatch(files, model, query) {
  stop?.abort();
  const mine = new AbortController();
  stop = mine;
  rows = files.map((file, place) => newRow(file, place));
  sorted = { key: "", isDescending: false };
  markSorted();
  byId("batch").hidden = false;
  byId("batch-stop").disabled = false;
  byId("batch-rows").replaceChildren(...rows.map((row) => row.element));
  byId("batch").scrollIntoView({ block: "nearest" });
  const queue = [...rows];
  let done = 0;
  const work = async () => {
    for (let row = queue.shift(); row && !mine.signal.aborted; row = queue.shift()) {
      await classify(row, model, query, mine.signal);
      if (mine.signal.aborted) return;
      done += 1;
      report(done, rows, mine.signal);
    }
  };
  report(0, rows, mine.signal);
  await Promise.all(Array.from({ length: PARALLEL }, work));
  if (stop === mine) byId("batch-stop").disabled = true;
}

function newRow(file, place) {
  const picture = make("td"), label = make("td"), score = make("td"), note = make("td", { className: "bad" });
  const element = make("tr", {}, picture, make("td", {}, file.name), label, score, note);
  return { file, place, name: file.name, label: "", score: null, error: "", element, cells: { picture, label, score, note } };
}

async function classify(row, model, query, signal) {
  const isText = model.input.kind === "text";
  if (!isText) {
    const image = await thumbnail(row.file);
    if (image) row.cells.picture.replaceChildren(image);
  }
  const type = isText ? "text/plain" : row.file.type || "application/octet-stream";
  for (let attempt = 1; ; attempt++) {
    try {
      const { content } = await call(`classify/${model.name}${query}`, { method: "POST", body: row.file, type, signal });
      const prediction = content.predictions[0];
      row.label = prediction.label ?? "";
      row.score = prediction.score;
      row.cells.label.textContent = prediction.label ?? "not sure";
      row.cells.score.textContent = percent(prediction.score);
      return;
    } catch (error) {
      if (error.name === "AbortError") return;
      if ([429, 503].includes(error.status) && attempt < MAX_TRIES) {
        await new Promise((resolve) => setTimeout(resolve, 1000 * Math.max(error.retryAfter, 1)));
        continue;
      }
      row.error = error.message;
      row.cells.note.textContent = sentence(error.message);
      row.cells.note.title = advice(error);
      return;
    }
  }
}

function report(done, all, signal) {
  const failed = all.filter((row) => row.error).length;
  byId("batch-progress").max = all.length;
  byId("batch-progress").value = done;
  const state = done === all.length ? "Done: " : signal.aborted ? "Stopped: " : "";
  byId("batch-status").textContent = `${state}${done} of ${all.length} files${failed ? `, ${failed} not classified` : ""}.`;
}

byId("batch-stop").addEventListener("click", () => {
  stop?.abort();
  byId("batch-stop").disabled = true;
  byId("batch-status").textContent = `Stopped. ${byId("batch-status").textContent}`;
});

for (const button of document.querySelectorAll("[data-sort]")) {
  button.addEventListener("click", () => {
    const key = button.dataset.sort;
    sorted = { key, isDescending: sorted.key === key ? !sorted.isDescending : key === "score" };
    const sign = sorted.isDescending ? -1 : 1;
    rows.sort((a, b) => sign * compare(a[key], b[key]) || a.place - b.place);
    byId("batch-rows").append(...rows.map((row) => row.element));
    markSorted();
  });
}

const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : (a ?? -1) - (b ?? -1));

function markSorted() {
  for (const button of document.querySelectorAll("[data-sort]")) {
    const order = sorted.isDescending ? "descending" : "ascending";
    button.parentElement.setAttribute("aria-sort", button.dataset.sort === sorted.key ? order : "none");
  }
}

// Spreadsheets run cells that begin like a formula, so these get an apostrophe.
const cell = (value) => `"${String(value).replace(/^[=+\-@\t\r]/, "'$&").replaceAll('"', '""')}"`;

export const toCsv = (all) => ["file,label,score,error", ...all.map((row) => [cell(row.name), cell(row.label), row.score ?? "", cell(row.error)].join(","))].join("\r\n") + "\r\n";

byId("batch-csv").addEventListener("click", () => {
  const url = URL.createObjectURL(new Blob(["\ufeff", toCsv(rows)], { type: "text/csv" }));
  make("a", { href: url, download: "predictions.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
});
