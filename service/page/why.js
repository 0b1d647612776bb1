// Why?: the heat map over what the model saw, or the words coloured by their weight.

import { byId, make } from "./dom.js";
import { canvasOf } from "./pad.js";

const STRONGEST = 5;

export function showWhy(explanation, labels, text, onLabel) {
  const select = make("select", { id: "why-label" }, ...labels.map((label) => make("option", { value: label, selected: label === explanation.label }, label)));
  select.addEventListener("change", () => onLabel(select.value));
  const head = make("div", { className: "explained" }, make("label", { htmlFor: "why-label" }, "What speaks for"), select);
  const body = explanation.words ? words(explanation, text) : heat(explanation);
  const legend = make("p", { className: "legend" },
    make("span", {}, make("i", { className: "for" }), `for ${explanation.label}`),
    make("span", {}, make("i", { className: "against" }), `against ${explanation.label}`));
  const what = explanation.words ? "Words were left out in turn" : "Squares were hidden in turn";
  const how = make("p", { className: "small quiet" }, `${what}; the model ran ${explanation.runs} times.`);
  byId("why").replaceChildren(make("h2", {}, "Why?"), head, ...body, legend, how);
}

const scale = (values) => Math.max(...values.map(Math.abs), 1e-9);
const signed = (value) => `${value > 0 ? "+" : value < 0 ? "\u2212" : ""}${Math.abs(value).toFixed(2)}`;

function colours() {
  const style = getComputedStyle(document.documentElement);
  return ["--for", "--against"].map((name) => style.getPropertyValue(name).trim().split(/\s+/).map(Number));
}

function heat({ evidence, rows, columns, image, label }) {
  const canvas = canvasOf(448, 448), context = canvas.getContext("2d");
  canvas.setAttribute("role", "img");
  const flat = evidence.flat(), largest = scale(flat);
  const strongest = flat.indexOf(Math.max(...flat));
  canvas.setAttribute("aria-label", `The strongest evidence for ${label} is ${place(strongest, rows, columns)} of the image.`);
  const map = canvasOf(columns, rows), pixels = map.getContext("2d").createImageData(columns, rows);
  const [forColour, againstColour] = [[230, 85, 0], [0, 90, 230]];
  flat.forEach((value, cell) => {
    const opacity = Math.abs(value) / largest;
    pixels.data.set([...(value > 0 ? forColour : againstColour), opacity < 0.06 ? 0 : opacity * 200], 4 * cell);
  });
  map.getContext("2d").putImageData(pixels, 0, 0);
  const seen = new Image();
  seen.onload = () => {
    canvas.height = Math.round(448 * seen.height / seen.width);
    context.imageSmoothingEnabled = seen.width > 64;
    context.filter = "grayscale(1) brightness(.9)";
    context.drawImage(seen, 0, 0, canvas.width, canvas.height);
    context.filter = "none";
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "high";
    context.drawImage(map, 0, 0, canvas.width, canvas.height);
    canvas.dataset.ready = "true";
  };
  seen.src = `data:image/png;base64,${image}`;
  return [canvas];
}

function place(cell, rows, columns) {
  const third = (value, size) => Math.min(Math.floor(3 * (value + 0.5) / size), 2);
  const down = ["at the top", "in the middle", "at the bottom"][third(Math.floor(cell / columns), rows)];
  const along = ["on the left", "in the centre", "on the right"][third(cell % columns, columns)];
  return down === "in the middle" && along === "in the centre" ? "in the middle" : `${down}, ${along}`;
}

function words({ words: parts, ngrams }, text) {
  const characters = Array.from(text), largest = scale(parts.map((part) => part.weight));
  const [forColour, againstColour] = colours();
  const paragraph = make("p", { className: "words", tabIndex: 0, role: "group", "aria-label": "The text with its words coloured" });
  let end = 0;
  for (const part of parts) {
    paragraph.append(characters.slice(end, part.start).join(""));
    const mark = make("mark", { title: signed(part.weight) }, characters.slice(part.start, part.end).join(""));
    const [red, green, blue] = part.weight > 0 ? forColour : againstColour;
    mark.style.backgroundColor = `rgb(${red} ${green} ${blue} / ${(0.5 * Math.abs(part.weight) / largest).toFixed(3)})`;
    paragraph.append(mark);
    end = part.end;
  }
  paragraph.append(characters.slice(end).join(""));
  const list = make("ul", { className: "strongest", "aria-label": "Strongest words and runs of words" }, ...ngrams.slice(0, STRONGEST).map((part) => make("li", {}, `${part.text} ${signed(part.weight)}`)));
  return [paragraph, list];
}
