// The pause: who paused the line and why, and a dialog that pauses it or lets it go on.

import { $, moment, note, put, request } from "./dom.js";

let paused = null;
let allowed = false;

export function setupPause() {
  $("pause").addEventListener("click", askPause);
  $("resume").addEventListener("click", askPause);
  $("pause-no").addEventListener("click", () => {
    $("pause-dialog").close();
    $("pause-no").blur(); // or the next key would still be taken for typing in the dialog
  });
  $("pause-dialog").addEventListener("close", () => $("pause-dialog").returnValue === "yes" && send());
}

export function showPause(state) {
  paused = state.run.pause;
  allowed = state.role === "full";
  $("paused").hidden = paused === null;
  $("pause").disabled = paused !== null || !allowed;
  $("resume").disabled = !allowed;
  if (paused) put($("paused-told"), `Paused by ${paused.by} since ${moment(paused.since)}${paused.reason ? `: ${paused.reason}` : ""}. Outputs show not ready.`);
}

export function askPause() {
  if (!allowed || $("pause-dialog").open) return;
  const word = paused ? "Resume" : "Pause";
  put($("pause-title"), paused ? "Let the line go on?" : "Pause the line?");
  put($("pause-ask"), paused ? $("paused-told").textContent : "Outputs show not ready and parts get no verdict until somebody resumes. Cameras and engines stay on.");
  put($("pause-yes"), word);
  $("pause-reason").required = !paused;
  $("pause-reason").value = "";
  $("pause-by").value = localStorage.getItem("name") || "";
  $("pause-dialog").returnValue = "no";
  $("pause-dialog").showModal();
}

async function send() {
  const by = $("pause-by").value.trim();
  localStorage.setItem("name", by);
  try {
    note((await request(paused ? "/api/resume" : "/api/pause", { by, reason: $("pause-reason").value.trim() })).told);
  } catch (error) {
    note(`Refused: ${error.message}`);
  }
}
