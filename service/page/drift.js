// What a model did lately beside what it did with its test data: a histogram of each quantity.

import { make, percent } from "./dom.js";

const NAMES = {
  score: "Highest score", label: "Predicted label", brightness: "Brightness", length: "Length in tokens",
  unknown: "Share of unknown words",
};
const STATES = { stable: "as in its test data", moderate: "moderately different", large: "largely different" };

// The content of GET /models/{model}/drift as a section.
export function driftView(content) {
  const section = make("section", { className: "drift" }, make("h3", {}, "Drift"));
  if (!content.quantities.length) {
    section.append(make("p", { className: "quiet small" }, "This version has no histograms of its test data to compare with."));
    return section;
  }
  const items = `${content.items.toLocaleString("en")} recent ${content.items === 1 ? "item" : "items"}`;
  const few = content.items < content.min_items ? `; from ${content.min_items} on they are compared` : "";
  section.append(make("p", { className: "quiet small" }, `${items}, in colour, beside ${content.reference} in grey${few}.`));
  section.append(make("div", { className: "quantities" }, ...content.quantities.map(quantityView)));
  return section;
}

function quantityView({ quantity, index, state, bins }) {
  const verdict = index === null ? "too few items" : `${STATES[state]} (index ${index.toFixed(2)})`;
  const highest = Math.max(...bins.flatMap((bin) => [bin.expected, bin.actual]), 0.01);
  const shown = bins.filter((bin) => bin.expected || bin.actual);
  const bars = shown.map((bin) => {
    const pair = [["expected", bin.expected], ["actual", bin.actual]].map(([name, share]) => {
      const bar = make("span", { className: name });
      bar.style.height = `${(share / highest) * 100}%`;
      return bar;
    });
    return make("span", { className: "bin", title: `up to ${bin.bin}: ${percent(bin.actual)}, in test data ${percent(bin.expected)}` }, ...pair);
  });
  const name = NAMES[quantity] || quantity;
  if (quantity === "label") bars.forEach((bar, place) => { bar.title = bar.title.replace(/^up to .*?:/, `${shown[place].bin}:`); });
  return make("figure", { className: state },
    make("figcaption", { className: "small" }, make("b", {}, name), ` ${verdict}`),
    make("div", { className: "histogram", role: "img", "aria-label": `${name}: ${verdict}` }, ...bars));
}
