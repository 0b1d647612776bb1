// The Markdown of model cards as elements: headings, paragraphs, lists, tables, code, and emphasis. Never as HTML.

import { make } from "./dom.js";

const ROW = /^\s*\|(.*)\|\s*$/, RULE = /^[\s|:-]+$/;

export function markdown(text) {
  const lines = text.split(/\r?\n/), blocks = [];
  for (let at = 0; at < lines.length;) {
    const line = lines[at], heading = /^(#{1,4})\s+(.*)/.exec(line);
    const take = (test) => {
      const taken = [];
      while (at < lines.length && test(lines[at])) taken.push(lines[at++]);
      return taken;
    };
    if (!line.trim()) at += 1;
    else if (line.startsWith("```")) {
      at += 1;
      const code = take((each) => !each.startsWith("```"));
      at += 1;
      blocks.push(make("pre", { tabIndex: 0 }, code.join("\n")));
    } else if (heading) {
      at += 1;
      if (heading[1].length > 1 || blocks.length) blocks.push(make("h3", {}, ...inline(heading[2])));
    } else if (ROW.test(line)) {
      blocks.push(table(take((each) => ROW.test(each))));
    } else if (/^\s*[-*]\s+/.test(line)) {
      const items = [];
      for (const each of take((other) => /^\s*[-*]\s+|^\s{2,}\S/.test(other))) {
        if (/^\s*[-*]\s+/.test(each)) items.push(each.replace(/^\s*[-*]\s+/, ""));
        else items[items.length - 1] += ` ${each.trim()}`;
      }
      blocks.push(make("ul", {}, ...items.map((item) => make("li", {}, ...inline(item)))));
    } else {
      blocks.push(make("p", {}, ...inline(take((each) => each.trim() && !ROW.test(each) && !/^#|^```|^\s*[-*]\s+/.test(each)).join(" "))));
    }
  }
  return blocks;
}

function table(lines) {
  const rows = lines.filter((line) => !RULE.test(line)).map((line) => ROW.exec(line)[1].split(/(?<!\\)\|/).map((cell) => cell.replaceAll("\\|", "|").trim()));
  const [head, ...body] = rows;
  const element = make("table", {}, make("thead", {}, make("tr", {}, ...head.map((cell) => (cell ? make("th", { scope: "col" }, ...inline(cell)) : make("td", {}))))),
    make("tbody", {}, ...body.map((cells) => make("tr", {}, ...cells.map((cell) => make("td", {}, ...inline(cell)))))));
  return make("div", { className: "scroll", tabIndex: 0, role: "group", "aria-label": "Table" }, element);
}

// **strong**, `code` and [text](address), whose address is left out: the page leads nowhere else.
function inline(text) {
  const parts = text.replace(/!?\[([^\]]*)\]\([^)]*\)/g, "$1").split(/(`[^`]+`|\*\*[^*]+\*\*)/);
  return parts.map((part) => (part.startsWith("`") && part.length > 1 ? make("code", {}, part.slice(1, -1)) : part.startsWith("**") && part.length > 4 ? make("strong", {}, part.slice(2, -2)) : part));
}
