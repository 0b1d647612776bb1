// The public HTTP interface of the service, and nothing else. An API key is kept in this variable only.

let key = "";

export function setKey(value) {
  key = value.trim();
}

export const hasKey = () => key !== "";

// An error response, or no response at all: `code` is the service's own.
export class Refusal extends Error {
  constructor(status, code, message, retryAfter = 0) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

export async function call(path, { method = "GET", body, type, accept = "application/json", signal } = {}) {
  const headers = { Accept: accept };
  if (type) headers["Content-Type"] = type;
  if (key) headers.Authorization = `Bearer ${key}`;
  const started = performance.now();
  let response;
  try {
    response = await fetch(path, { method, body, headers, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "unreachable", "The service does not respond.");
  }
  if (response.ok) {
    const content = await (accept.startsWith("image/") ? response.blob() : response.json());
    return { content, ms: performance.now() - started, timing: response.headers.get("Server-Timing") || "", id: response.headers.get("X-Request-ID") };
  }
  throw await refusal(response);
}

async function refusal(response) {
  let code = "", message = `The service answered ${response.status}.`;
  try {
    const error = (await response.json()).error;
    code = error.code || "";
    message = error.message || error;
  } catch { /* a proxy's own page */ }
  if (response.status === 401 || (response.status === 403 && !hasKey())) {
    document.dispatchEvent(new CustomEvent("key-needed", { detail: hasKey() ? message : "" }));
  }
  return new Refusal(response.status, code, message, Number(response.headers.get("Retry-After")) || 0);
}

const ADVICE = {
  no_digit: "Draw it larger and darker, or choose an image in which the digit fills more space.",
  several_digits: "Send one digit, or read them one by one.",
  no_content: "Choose an image that shows something.",
  unreadable: "Choose another file, or save this one again.",
  unsupported_kind: "Choose a file of a kind that the model reads.",
  too_large: "Choose a smaller file.",
  overloaded: "Try again in a moment.",
  too_many_connections: "Try again in a moment.",
  not_inspectable: "The network can be used, but not shown.",
  not_ready: "The models are still being loaded; try again in a few seconds.",
  deadline_exceeded: "The service is busy; try again in a moment.",
  unauthorized: "Enter a valid API key.",
  forbidden: "Enter a key of the role 'predict'.",
  model_not_found: "Reload the page to see the models that are served now.",
  unreachable: "Check your connection, and that the service runs.",
};

export function advice(error) {
  return ADVICE[error.code] || (error.status >= 500 ? "Try again; the service's log has the details." : "");
}

// "read;dur=0.1, total;dur=0.4" -> [["read", 0.1], ["total", 0.4]]
export function timings(header) {
  return [...header.matchAll(/([\w-]+);dur=([\d.]+)/g)].map((match) => [match[1], Number(match[2])]);
}
