// The challenge: whether one is due, what to show next, what was right, and what locks.

import { $, chip, el, moment, note, put, request, table } from "./dom.js";

let sending = "";
let shownParts = "";

export function setupChallenge() {
  $("challenge-start").addEventListener("click", () => open("start"));
  $("challenge-override").addEventListener("click", () => open("override"));
  $("challenge-no").addEventListener("click", () => {
    $("challenge-dialog").close();
    $("challenge-no").blur(); // or the next key would still be taken for typing in the dialog
  });
  $("challenge-dialog").addEventListener("close", () => $("challenge-dialog").returnValue === "yes" && send());
}

export function showChallenge(state) {
  const found = state.run.challenge;
  const full = state.role === "full";
  $("locked").hidden = !found?.locked;
  put($("locked"), found?.locked ? `Nothing passes: ${found.locked}` : "");
  $("tab-challenge").classList.toggle("waiting", Boolean(found && (found.due || found.locked)));
  $("challenge-start").disabled = !found || found.open !== null || !full;
  $("challenge-override").disabled = !found?.locked || found.open !== null || !full;
  if (!found) return put($("challenge-told"), "This station has no challenge: set good and bad under [challenge] in edge-ad.toml.");
  const last = found.last ? `${found.last.kind.replace("challenge ", "The last one ")} (${moment(found.last.at)}, ${found.last.by}).` : "None was made yet.";
  const due = found.due ? ` One is due since ${moment(found.due.since)}: ${found.due.why}.` : " None is due.";
  put($("challenge-told"), found.open ? `Open since ${moment(found.open.since)}, by ${found.open.by}: ${found.open.asks}.` : `${last}${due}`);
  const parts = found.open ? found.open.parts : [];
  if (shownParts !== JSON.stringify(parts)) {
    shownParts = JSON.stringify(parts);
    table($("challenge-parts"), [["Shown"], ["Part"], ["Verdict"], ["At the PLC after", "number"], ["Right", "reason"]], parts.map((part) => [
      `known ${part.asked}`, part.part || "–", chip(part.verdict), part.reject_ms === null ? "–" : `${part.reject_ms.toFixed(0)} ms`,
      part.right ? "yes" : el("span", { class: "bad" }, part.why)]));
  }
}

function open(what) {
  sending = what;
  const override = what === "override";
  put($("challenge-title"), override ? "Let the line pass without a passed challenge?" : "Show the known parts now?");
  put($("challenge-ask"), override ? $("locked").textContent : "The parts that come next are taken for the known ones, in the order asked or by their ids.");
  put($("challenge-yes"), override ? "Override" : "Start");
  $("challenge-reason").required = override;
  $("challenge-reason").value = "";
  $("challenge-by").value = localStorage.getItem("name") || "";
  $("challenge-dialog").returnValue = "no";
  $("challenge-dialog").showModal();
}

async function send() {
  const by = $("challenge-by").value.trim();
  localStorage.setItem("name", by);
  try {
    note((await request(sending === "start" ? "/api/challenge" : "/api/challenge/override", { by, reason: $("challenge-reason").value.trim() })).told);
  } catch (error) {
    note(`Refused: ${error.message}`);
  }
}
