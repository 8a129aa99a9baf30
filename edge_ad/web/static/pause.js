// The pause: who paused the line and why, and a dialog that pauses it or lets it go on.

import { openAsk, setupAsk } from "./ask.js";
import { $, may, moment, offer, put } from "./dom.js";

let paused = null;
let allowed = false;

export function setupPause() {
  $("pause").addEventListener("click", askPause);
  $("resume").addEventListener("click", askPause);
  setupAsk("pause", () => (paused ? "/api/resume" : "/api/pause"));
}

export function showPause(state) {
  paused = state.run.pause;
  allowed = may(state, "operate");
  $("paused").hidden = paused === null;
  $("pause").disabled = paused !== null || !allowed;
  $("resume").disabled = !allowed;
  offer($("pause"), state, "operate");
  offer($("resume"), state, "operate");
  if (paused) put($("paused-told"), `Paused by ${paused.by} since ${moment(paused.since)}${paused.reason ? `: ${paused.reason}` : ""}. Outputs show not ready.`);
}

export function askPause() {
  if (!allowed || $("pause-dialog").open) return;
  openAsk("pause", {
    title: paused ? "Let the line go on?" : "Pause the line?",
    text: paused ? $("paused-told").textContent : "Outputs show not ready and parts get no verdict until somebody resumes. Cameras and engines stay on.",
    yes: paused ? "Resume" : "Pause",
    reasonNeeded: !paused,
  });
}
