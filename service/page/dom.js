// Small helpers: elements by id, elements made from text (never from HTML), and numbers in words.

export const byId = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function percent(value) {
  if (value > 0.999 && value < 1) return `${(Math.floor(value * 10000) / 100).toFixed(2)} %`;
  if (value < 0.0001) return value ? "< 0.01 %" : "0 %";
  if (value < 0.001) return `${(value * 100).toFixed(2)} %`;
  return `${(value * 100).toFixed(1)} %`;
}

export const milliseconds = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
