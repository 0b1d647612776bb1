// The right label of the shown answer, sent back where the service keeps feedback.

import { call } from "./api.js";
import { byId, make } from "./dom.js";

let isKept = false;
let answered = "";

// Whether the service keeps feedback; its index says so.
export async function findFeedback() {
  try {
    isKept = Boolean((await call("./")).content.feedback);
  } catch { /* the page says elsewhere that the service does not respond */ }
}

// Offer to name the right label of the answer to a request.
export function offerFeedback(id, labels, predicted) {
  byId("feedback").hidden = !isKept || !id;
  if (byId("feedback").hidden) return;
  answered = id;
  byId("feedback-state").textContent = "";
  byId("right-label").replaceChildren(...labels.map((label) => make("option", { value: label, selected: label === predicted }, label)));
}

export function withdrawFeedback() {
  byId("feedback").hidden = true;
}

byId("feedback-send").addEventListener("click", async () => {
  const state = byId("feedback-state");
  try {
    const body = JSON.stringify({ label: byId("right-label").value });
    const { content } = await call(`feedback/${encodeURIComponent(answered)}`, { method: "POST", body, type: "application/json" });
    state.textContent = content.is_correct ? "Kept: the answer was right." : `Kept as ${content.label}, not ${content.answer}.`;
  } catch (error) {
    state.textContent = error.message;
  }
});
