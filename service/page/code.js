// Code: the same request with curl, Python and JavaScript.

import { hasKey } from "./api.js";
import { byId, make } from "./dom.js";

export function showCode({ path, text, type, name }) {
  const url = new URL(path, document.baseURI).href;
  const samples = text === undefined ? ofFile(url, name, type) : ofText(url, text);
  const pre = make("pre", { tabIndex: 0, role: "region", "aria-label": "Code" }), buttons = [];
  const copy = make("button", { type: "button" }, "Copy");
  const status = make("span", { className: "small quiet", role: "status" });
  const choose = (language) => {
    pre.textContent = samples[language];
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.textContent === language));
    status.textContent = "";
  };
  for (const language of Object.keys(samples)) {
    buttons.push(make("button", { type: "button", onclick: () => choose(language) }, language));
  }
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(pre.textContent);
      status.textContent = "Copied.";
    } catch { // pages without TLS have no clipboard
      getSelection().selectAllChildren(pre);
      status.textContent = "Selected; press Ctrl+C.";
    }
  });
  const bar = make("div", { className: "row" }, make("div", { className: "switch", role: "group", "aria-label": "Language" }, ...buttons), copy, status);
  byId("code").replaceChildren(bar, pre);
  choose("curl");
}

const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
// As JSON, whose strings Python and JavaScript read alike.
const quoted = (text) => JSON.stringify(text).replaceAll("\u2028", "\\u2028").replaceAll("\u2029", "\\u2029").replaceAll("\x7f", "\\u007f");

function ofFile(url, name, type) {
  const [header, python, script] = keys();
  return {
    curl: `curl ${header}-H ${shell(`Content-Type: ${type}`)} --data-binary ${shell(`@${name}`)} ${shell(url)}`,
    Python: `import json\n${hasKey() ? "import os\n" : ""}import urllib.request\n\nwith open(${quoted(name)}, "rb") as file:\n    request = urllib.request.Request(${quoted(url)}, file.read())\nrequest.add_header("Content-Type", ${quoted(type)})\n${python}with urllib.request.urlopen(request) as response:\n    print(json.load(response)["predictions"][0])`,
    JavaScript: `const file = document.querySelector("input[type=file]").files[0];\nconst response = await fetch(${quoted(url)}, {\n  method: "POST",\n  headers: {"Content-Type": ${quoted(type)}${script}},\n  body: file,\n});\nconsole.log((await response.json()).predictions[0]);`,
  };
}

function ofText(url, text) {
  const [header, python, script] = keys();
  const body = JSON.stringify({ texts: [text] });
  return {
    curl: `curl ${header}-H 'Content-Type: application/json' --data-binary ${shell(body)} ${shell(url)}`,
    Python: `import json\n${hasKey() ? "import os\n" : ""}import urllib.request\n\ntext = ${quoted(text)}\nrequest = urllib.request.Request(${quoted(url)}, json.dumps({"texts": [text]}).encode())\nrequest.add_header("Content-Type", "application/json")\n${python}with urllib.request.urlopen(request) as response:\n    print(json.load(response)["predictions"][0])`,
    JavaScript: `const text = ${quoted(text)};\nconst response = await fetch(${quoted(url)}, {\n  method: "POST",\n  headers: {"Content-Type": "application/json"${script}},\n  body: JSON.stringify({texts: [text]}),\n});\nconsole.log((await response.json()).predictions[0]);`,
  };
}

// The key itself is never shown.
function keys() {
  if (!hasKey()) return ["", "", ""];
  return [`-H "Authorization: Bearer $CONVOKE_KEY" `, `request.add_header("Authorization", "Bearer " + os.environ["CONVOKE_KEY"])\n`, `, "Authorization": "Bearer " + key`];
}
