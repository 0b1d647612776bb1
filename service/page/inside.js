// Inside: a walk through the network, layer by layer. A click or key on a cell shows what it has seen and its arithmetic.

import { call } from "./api.js";
import { byId, make, percent } from "./dom.js";

const REST_MS = 120; // after the last key, when a cell's arithmetic is requested
const LEAST_WIDTH = 544; // pixels of a sheet of maps, if the page has them
const MOST_LABELS = 20, NUMBERS = 7; // rows of a list; cells of a window's side that are shown as numbers

const ACTIVATIONS = { relu: "ReLU then sets what is below 0 to 0.", sigmoid: "The sigmoid then brings each value between 0 and 1.",
  tanh: "tanh then brings each value between −1 and 1." };
const WORDS = {
  conv: ({ shape }) => `Each of the ${shape[0]} filters is laid on every place of its input: weights times values, summed, plus a bias.`,
  windows: ({ title, shape }) => `Each of the ${shape[0]} filters is laid on every place of the text (${title.split(",")[0]} tokens): weights times values, summed, plus a bias.`,
  pool: ({ title }) => (title.includes("over time") ? `Of each filter the ${title.startsWith("max") ? "largest value" : "mean"} over all places of the text is kept: where it was no longer counts.`
    : title.startsWith("global") ? "Each map becomes one value, so that the place no longer counts."
      : `Each window keeps its ${title.startsWith("max") ? "largest value" : "mean"}: smaller maps, and a little freedom of place.`),
  flatten: () => "All maps, row by row, become one vector.",
  dense: ({ shape }) => `Each of the ${shape.at(-1)} units multiplies every input by a weight of its own, adds the products up, and adds a bias.`,
  softmax: () => "exp of each value, divided by their sum: probabilities that add up to 1.",
  embedding: () => "Each token is a row of a table that was learned: tokens with similar uses have similar rows.",
  concat: () => "The values of several paths stand side by side.",
  sum: () => "The values of two paths are added: a skip connection.",
  norm: () => "The values are brought to one scale.",
  activation: ({ title }) => `${title}: a bend between two layers, without which they would be one.`,
  other: ({ title }) => `The operation ${title} of the graph.`,
};

const LINES = { windows: "A line for each filter, a column for each token; bright is large.", embedding: "A line for each token; orange is above 0, blue below." };

let walk = null; // the inspection that is shown: {model, input, answer, sheets, stop}

export function closeInside() {
  walk?.stop.abort();
  for (const url of walk?.sheets.values() || []) URL.revokeObjectURL(url);
  walk = null;
  byId("inside").hidden = true;
  byId("inside").replaceChildren();
  byId("inside-button").setAttribute("aria-expanded", "false");
}

export async function showInside(model, input) {
  closeInside();
  const mine = { model, input, answer: null, sheets: new Map(), stop: new AbortController() };
  walk = mine;
  byId("inside").hidden = false;
  byId("inside-button").setAttribute("aria-expanded", "true");
  byId("inside").replaceChildren(make("p", { className: "quiet", role: "status" }, "Looking inside ..."));
  try {
    mine.answer = (await inspect(mine)).content;
    if (walk !== mine) return;
    build(mine);
    byId("inside").scrollIntoView({ block: "nearest" });
    await loadThumbnails(mine);
  } catch (error) {
    if (error.name === "AbortError" || walk !== mine) return;
    byId("inside").replaceChildren(make("h2", {}, "Inside"), make("p", { className: "note error" }, error.message));
  }
}

const inspect = ({ model, input, stop }, query = "", accept = "application/json") => call(`inspect/${model.name}${query}`,
  { method: "POST", body: input.body, type: input.type, accept, signal: stop.signal });

async function sheet(mine, layer, show = "maps") {
  const name = `${show} ${layer.name}`;
  if (!mine.sheets.has(name)) {
    const { content } = await inspect(mine, `?layer=${encodeURIComponent(layer.name)}&show=${show}`, "image/png");
    if (walk === mine) mine.sheets.set(name, URL.createObjectURL(content));
  }
  return mine.sheets.get(name);
}

// --- The walk: a step for the input and for each layer ---

function build(mine) {
  const { answer } = mine;
  const steps = [{ name: "input", kind: "input", title: answer.input.tokens?.length ? "tokens" : "pixels", shape: answer.input.shape }, ...answer.layers];
  const panel = make("div", { id: "layer", role: "tabpanel", tabIndex: 0 });
  const tabs = steps.map((step, place) => {
    const tab = make("button", { type: "button", role: "tab", id: `step-${place}`, tabIndex: -1, "aria-selected": "false", "aria-controls": "layer" },
      make("span", { className: "thumb", "aria-hidden": "true" }), make("b", {}, step.name), make("small", {}, step.shape.join(" × ")));
    tab.addEventListener("click", () => choose(place));
    return tab;
  });
  mine.tabs = tabs;
  const choose = (place, hasFocus = false) => {
    tabs.forEach((tab, other) => {
      tab.setAttribute("aria-selected", String(other === place));
      tab.tabIndex = other === place ? 0 : -1;
    });
    panel.setAttribute("aria-labelledby", tabs[place].id);
    panel.dataset.name = steps[place].name;
    back.disabled = place === 0;
    next.disabled = place === steps.length - 1;
    if (hasFocus) tabs[place].focus();
    const list = tabs[place].parentElement;
    list.scrollLeft = tabs[place].offsetLeft - list.offsetLeft - (list.clientWidth - tabs[place].clientWidth) / 2;
    mine.place = place;
    if (place) showLayer(mine, steps[place], panel);
    else showInput(mine, panel);
  };
  const list = make("div", { role: "tablist", className: "steps", "aria-label": "Layers" }, ...tabs);
  list.addEventListener("keydown", (event) => {
    const to = { ArrowLeft: mine.place - 1, ArrowRight: mine.place + 1, Home: 0, End: steps.length - 1 }[event.key];
    if (to === undefined || !steps[to]) return;
    event.preventDefault();
    choose(to, true);
  });
  const back = make("button", { type: "button", onclick: () => choose(mine.place - 1) }, "Back");
  const next = make("button", { type: "button", className: "main", onclick: () => choose(mine.place + 1) }, "Next layer");
  const total = answer.layers.reduce((sum, layer) => sum + layer.parameters, 0);
  const work = answer.layers.reduce((sum, layer) => sum + layer.multiply_adds, 0);
  byId("inside").replaceChildren(
    make("div", { className: "head" }, make("h2", {}, `Inside ${answer.model}, version ${answer.version}`), make("div", { className: "row" }, back, next)),
    make("p", { className: "small quiet" }, `${answer.layers.length} layers, ${count(total)} parameters, ${count(work)} multiply-adds for this ${answer.input.image ? "image" : "text"}.`),
    list, panel);
  choose(0);
}

const count = (value) => value.toLocaleString("en");

async function loadThumbnails(mine) {
  const { answer, tabs } = mine;
  if (!answer.input.image) tabs[0].firstChild.textContent = "Aa";
  else tabs[0].firstChild.append(picture(`data:image/png;base64,${answer.input.image}`));
  for (const [place, layer] of answer.layers.entries()) {
    const url = await sheet(mine, layer);
    if (walk !== mine) return;
    tabs[place + 1].firstChild.append(picture(url));
    tabs[place + 1].firstChild.classList.toggle("whole", layer.sheet.map_height * layer.sheet.map_width === 1 || layer.shape.length === 2);
  }
}

const picture = (src, alt = "") => make("img", { src, alt, draggable: false });

function showInput({ answer, model }, panel) {
  const { image, tokens, shape } = answer.input;
  if (!image) {
    panel.replaceChildren(
      make("h3", {}, `${tokens.length} tokens`), make("p", {}, "The text as the model reads it: each token is a number, its place in the vocabulary."),
      chips(tokens).element);
    return;
  }
  const [height, width, channels] = shape;
  panel.replaceChildren(make("div", { className: "sides" },
    make("div", { className: "shown large" }, seen(`data:image/png;base64,${image}`, shape).element),
    make("div", { className: "about" }, make("h3", {}, "What the model sees"),
      make("p", {}, `${height} rows of ${width} pixels, ${channels === 1 ? "each a grey level" : "each with red, green and blue"} from 0 to 255: ${count(height * width * channels)} numbers.`),
      model.input.framing === "mnist" ? make("p", {}, "The digit was made light on black, fitted into a square of 20 pixels and centred by its mass, as the digits that the model learned from.") : null,
      make("p", { className: "quiet" }, "Go on with Next layer. In each layer, choose a cell of a map to see which pixels it has seen and how its value was computed."))));
}

// --- A layer: its words and arithmetic, its maps and filters, and one cell of it ---

function showLayer(mine, layer, panel) {
  const { answer } = mine;
  const facts = [layer.shape.join(" × "), layer.parameters ? `${count(layer.parameters)} parameters` : "", layer.multiply_adds ? `${count(layer.multiply_adds)} multiply-adds` : "",
    layer.zeros > 0.005 ? `${percent(layer.zeros)} zeros` : ""].filter(Boolean);
  const words = [WORDS[layer.kind](layer), layer.activation ? ACTIVATIONS[layer.activation] || `Then follows ${layer.activation}.` : ""].filter(Boolean).join(" ");
  const about = make("div", { className: "about" },
    make("h3", {}, layer.title), make("p", {}, words),
    make("ul", { className: "formulas", "aria-label": "Arithmetic" }, ...layer.formulas.map((formula) => make("li", {}, formula))),
    make("p", { className: "small quiet" }, `${facts.join(" · ")}. ${layer.recipe ? `Layer ${layer.recipe.layer} of the recipe. ` : ""}Values from ${short(layer.minimum)} to ${short(layer.maximum)}.`));
  const detail = make("div", { className: "cell", role: "status" });
  const left = make("div", { className: "shown" });
  const isFew = layer.values && layer.values.length <= MOST_LABELS;
  if (layer.kind === "softmax" || (layer.kind === "dense" && isFew)) left.append(units(mine, layer, detail));
  else left.append(...maps(mine, layer, detail));
  if (layer.filters) left.append(filters(mine, layer));
  if (layer.strongest) left.prepend(strongest(answer, layer));
  panel.replaceChildren(make("div", { className: "sides" }, about, left, detail));
}

const short = (value) => (Math.abs(value) >= 100 ? Math.round(value) : Number(value.toPrecision(3))).toLocaleString("en", { maximumFractionDigits: 4 });
const signed = (value) => `${value < 0 ? "−" : "+"} ${short(Math.abs(value))}`;

// The sheet of maps, whose cells can be chosen by click and by keys.
function maps(mine, layer, detail) {
  const grid = layer.sheet, [height, width] = [grid.map_height, grid.map_width];
  const image = make("img", { alt: "", draggable: false });
  const cursor = make("div", { className: "cursor", hidden: true });
  const isVector = height * width === 1;
  const keys = isVector ? "arrow keys move from value to value" : "arrow keys move from cell to cell, Page Up and Page Down from map to map";
  const field = make("div", { className: "maps", tabIndex: 0, role: "application", "aria-label": `${isVector ? "Values" : "Feature maps"} of ${layer.name}: ${keys}` }, image, cursor);
  if (layer.shape.length === 2) field.classList.add("stretched");
  else field.style.aspectRatio = `${grid.width} / ${grid.height}`;
  field.style.maxWidth = isVector ? `${2 * grid.width}px` : `${Math.max(grid.width, LEAST_WIDTH)}px`;
  sheet(mine, layer).then((url) => { image.src = url; }, (error) => detail.replaceChildren(error.message));
  const at = { map: 0, row: 0, column: 0 };
  let timer = 0;
  const go = (isSoon) => {
    const x = (at.map % grid.columns) * (width * grid.zoom + grid.gap) + at.column * grid.zoom;
    const y = Math.floor(at.map / grid.columns) * (height * grid.zoom + grid.gap) + at.row * grid.zoom;
    Object.assign(cursor.style, { left: `${100 * x / grid.width}%`, top: `${100 * y / grid.height}%`, width: `${100 * grid.zoom / grid.width}%`, height: `${100 * grid.zoom / grid.height}%` });
    cursor.hidden = false;
    clearTimeout(timer);
    timer = setTimeout(() => showCell(mine, layer, placeOf(layer, at), detail), isSoon ? 0 : REST_MS);
  };
  field.addEventListener("pointerdown", (event) => {
    const box = image.getBoundingClientRect(), zoom = grid.width / box.width;
    const x = (event.clientX - box.left) * zoom, y = (event.clientY - box.top) * zoom;
    const column = Math.floor(x / (width * grid.zoom + grid.gap)), row = Math.floor(y / (height * grid.zoom + grid.gap));
    const map = row * grid.columns + column;
    if (map >= grid.maps || column >= grid.columns) return;
    at.map = map;
    at.column = Math.min(Math.floor((x - column * (width * grid.zoom + grid.gap)) / grid.zoom), width - 1);
    at.row = Math.min(Math.floor((y - row * (height * grid.zoom + grid.gap)) / grid.zoom), height - 1);
    go(true);
  });
  field.addEventListener("keydown", (event) => {
    const lines = isVector ? grid.columns : 1;
    const move = { ArrowLeft: [0, 0, -1], ArrowRight: [0, 0, 1], ArrowUp: [0, -1, 0], ArrowDown: [0, 1, 0], PageUp: [-1, 0, 0], PageDown: [1, 0, 0] }[event.key];
    if (!move && event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    const [map, row, column] = move || [0, 0, 0], limit = (value, end) => Math.min(Math.max(value, 0), end - 1);
    if (cursor.hidden) return go(true);
    if (isVector) at.map = limit(at.map + map * lines + row * lines + column, grid.maps);
    else Object.assign(at, { map: limit(at.map + map, grid.maps), row: limit(at.row + row, height), column: limit(at.column + column, width) });
    go(event.key === "Enter" || event.key === " ");
  });
  const size = layer.shape.length === 3 ? layer.shape[0] : grid.maps;
  const left = !isVector && size > grid.maps ? ` The first ${grid.maps} of ${size} maps.` : "";
  const help = make("p", { className: "small quiet" }, isVector ? `${count(layer.shape.at(-1) === 1 ? layer.shape[0] : layer.shape.at(-1))} values, line by line. Choose one.` : `${LINES[layer.kind] || "Bright is large."}${left} Choose a cell to see what it has seen.`);
  return [field, help];
}

// A position on the sheet -> a position in the layer's output.
function placeOf({ shape, sheet: grid }, { map, row, column }) {
  if (shape.length === 1) return [map];
  if (shape.length === 2) return grid.map_height === 1 && grid.map_width === 1 ? [0, map] : [row, column];
  if (grid.map_height * grid.map_width === 1) return [map, ...shape.slice(1).map(() => 0)];
  return shape.length === 4 ? [Math.floor(map / shape[1]), map % shape[1], row, column] : [map, row, column];
}

async function showCell(mine, layer, place, detail) {
  const wanted = detail.dataset.wanted = place.join(",");
  try {
    const { content } = await inspect(mine, `?layer=${encodeURIComponent(layer.name)}&cell=${wanted}`);
    if (walk === mine && detail.dataset.wanted === wanted) detail.replaceChildren(...cell(mine.answer, layer, content));
  } catch (error) {
    if (error.name !== "AbortError") detail.replaceChildren(make("p", { className: "note error" }, error.message));
  }
}

function cell(answer, layer, found) {
  const place = found.cell, isMap = place.length > 1;
  const name = layer.kind === "embedding" ? `Token ${place[0] + 1}, value ${place[1] + 1}`
    : layer.kind === "windows" ? `Filter ${place[0] + 1}, position ${place[1] + 1}`
      : isMap ? `Map ${place[0] + 1}, row ${place.at(-2) + 1}, column ${place.at(-1) + 1}` : `Value ${place[0] + 1}`;
  const parts = [make("p", { className: "value" }, make("span", {}, name), make("b", {}, short(found.value)))];
  if (found.saw?.text !== undefined) parts.push(make("p", {}, "It has seen: ", make("q", {}, found.saw.text || "only padding")));
  if (found.saw?.bottom !== undefined) {
    const { top, left, bottom, right } = found.saw;
    parts.push(make("p", {}, `It has seen ${bottom - top} × ${right - left} pixels of the input.`));
    const view = seen(`data:image/png;base64,${answer.input.image}`, answer.input.shape);
    view.mark(found.saw);
    parts.push(view.element);
  }
  parts.push(...arithmetic(layer, found));
  return parts;
}

function arithmetic(layer, found) {
  const parts = [];
  if (found.sum !== undefined) {
    const after = layer.activation ? ` → ${layer.activation}: ${short(found.value)}` : "";
    parts.push(make("p", { className: "sum" }, `sum of ${count(found.products)} products ${short(found.sum)} ${signed(found.bias)} (bias) = ${short(found.before_activation)}${after}`));
  }
  const plane = (values) => (values && Array.isArray(values[0]) && !Array.isArray(values[0][0]) ? values : values?.length === 1 ? values[0] : null);
  const inputs = plane(found.inputs), weights = plane(found.weights);
  if (layer.kind === "conv" && inputs?.[0]?.length <= NUMBERS && weights) {
    parts.push(make("div", { className: "products" }, numbers("inputs", inputs), make("span", {}, "×"), numbers("weights", weights)));
  } else if (layer.kind === "pool" && inputs?.[0]?.length <= NUMBERS) {
    parts.push(make("div", { className: "products" }, numbers("window", inputs, found.value), make("span", {}, "→"), numbers(layer.title.startsWith("max") ? "largest" : "mean", [[found.value]])));
  }
  if (found.largest) {
    parts.push(make("p", { className: "small quiet" }, "The largest products:"), make("ol", { className: "largest" },
      ...found.largest.slice(0, 6).map(({ input, value, weight }) => make("li", {}, `input ${input + 1}: ${short(value)} × ${short(weight)} = ${short(value * weight)}`))));
  }
  return parts;
}

// Numbers of a window with their strength as colour; `picked` is set off.
function numbers(name, values, picked) {
  const largest = Math.max(...values.flat().map(Math.abs), 1e-9);
  const table = make("table", { className: "numbers" }, make("caption", {}, name));
  let isPicked = picked === undefined;
  for (const line of values) {
    table.append(make("tr", {}, ...line.map((value) => {
      const box = make("td", {}, Number(value.toFixed(Math.abs(value) < 10 ? 2 : 0)).toString());
      box.style.backgroundColor = `rgb(var(--${value < 0 ? "against" : "for"}) / ${(0.55 * Math.abs(value) / largest).toFixed(2)})`;
      if (!isPicked && Math.abs(value - picked) < 1e-3 * largest) {
        isPicked = true;
        box.className = "picked";
      }
      return box;
    })));
  }
  return table;
}

// The input, with the rectangle that a cell has seen.
function seen(src, [height, width]) {
  const box = make("div", { className: "mark", hidden: true });
  const element = make("div", { className: "seen" }, picture(src, "The image as the model sees it"), box);
  element.style.aspectRatio = `${width} / ${height}`;
  const mark = ({ top, left, bottom, right }) => {
    box.hidden = false;
    Object.assign(box.style, { top: `${100 * top / height}%`, left: `${100 * left / width}%`, height: `${100 * (bottom - top) / height}%`, width: `${100 * (right - left) / width}%` });
  };
  return { element, mark };
}

function filters(mine, layer) {
  const details = make("details", { open: layer.kind === "conv" && layer.input_shape[0] <= 3 }, make("summary", {}, "Filters"));
  details.addEventListener("toggle", async () => {
    if (!details.open || details.children.length > 1) return;
    const isColour = layer.kind === "conv" && layer.input_shape[0] === 3;
    const note = isColour ? "The weights over red, green and blue, each filter at its full contrast."
      : layer.kind === "windows" ? "A filter's weights: a line for each token of its window." : "Orange weights are above 0, blue ones below.";
    const image = make("img", { className: "filters", alt: `The filters of ${layer.name}` });
    details.append(image, make("p", { className: "small quiet" }, note));
    try {
      image.src = await sheet(mine, layer, "filters");
      image.style.maxWidth = `${layer.filters.width}px`;
    } catch (error) {
      if (error.name !== "AbortError") image.replaceWith(error.message);
    }
  });
  return details;
}

// A few values with names: logits, or the softmax with its arithmetic.
function units(mine, layer, detail) {
  const { answer, model } = mine, before = answer.layers[answer.layers.indexOf(layer) - 1];
  const isSoftmax = layer.kind === "softmax", inputs = isSoftmax && before?.values?.length === layer.values?.length ? before.values : null;
  const values = layer.values || [], order = [...values.keys()].sort((a, b) => values[b] - values[a]).slice(0, MOST_LABELS);
  const shown = values.length <= MOST_LABELS ? [...values.keys()] : order;
  const sum = inputs?.reduce((total, value) => total + Math.exp(value), 0);
  const largest = Math.max(...values.map(Math.abs), 1e-9);
  const rows = shown.map((place) => {
    const label = values.length === model.labels.length ? model.labels[place] : `unit ${place + 1}`;
    const fill = make("div", { className: "fill" });
    fill.style.transform = `scaleX(${Math.abs(values[place]) / largest})`;
    const row = make("tr", { className: place === order[0] ? "first" : "" }, make("th", { scope: "row" }, label),
      inputs ? make("td", {}, `exp(${short(inputs[place])}) / ${short(sum)}`) : null,
      make("td", { className: "track-cell", "aria-hidden": "true" }, make("div", { className: "track" }, fill)),
      make("td", {}, isSoftmax ? percent(values[place]) : make("button", { type: "button", className: "plain", onclick: () => showCell(mine, layer, [place], detail) }, short(values[place]))));
    return row;
  });
  return make("table", { className: "units" }, ...rows);
}

// --- Texts ---

function chips(tokens) {
  const marks = tokens.map((token) => make("span", {}, token));
  const element = make("p", { className: "chips", tabIndex: 0, role: "group", "aria-label": "Tokens" }, ...marks);
  const light = (start, end) => marks.forEach((mark, place) => mark.classList.toggle("lit", place >= start && place < end));
  return { element, light, marks };
}

function strongest(answer, layer) {
  const text = chips(answer.input.tokens);
  const largest = Math.max(...layer.strongest.map(({ weight, value }) => Math.abs(weight ?? value)), 1e-9);
  const items = layer.strongest.map((found) => {
    const strength = found.weight ?? found.value, button = make("button", { type: "button" }, make("q", {}, found.text || "padding"),
      make("small", {}, `filter ${found.filter + 1}: ${short(found.value)}${found.weight === undefined ? "" : `, ${signed(found.weight)}`}`));
    button.style.borderColor = `rgb(var(--${strength < 0 ? "against" : "for"}) / ${(0.25 + 0.75 * Math.abs(strength) / largest).toFixed(2)})`;
    const light = () => {
      text.light(found.start, found.end);
      text.element.scrollTop = (text.marks[found.start]?.offsetTop || 0) - text.element.offsetTop - 40;
    };
    for (const kind of ["click", "focus", "pointerenter"]) button.addEventListener(kind, light);
    return make("li", {}, button);
  });
  const note = layer.strongest.some((found) => found.weight !== undefined)
    ? `Where the filters respond most that speak for ${answer.prediction} (orange) or against it (blue), and what this adds to its logit.`
    : "Where the filters respond most.";
  return make("div", {}, text.element, make("p", { className: "lead" }, "Strongest windows"), make("p", { className: "small quiet" }, note), make("ul", { className: "found" }, ...items));
}
