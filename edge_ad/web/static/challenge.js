// The challenge: whether one is due, what to show next, what was right, and what locks.

import { openAsk, setupAsk } from "./ask.js";
import { $, chip, el, may, moment, offer, put, table } from "./dom.js";

let sending = "";
let shownParts = "";

export function setupChallenge() {
  $("challenge-start").addEventListener("click", () => open("start"));
  $("challenge-override").addEventListener("click", () => open("override"));
  setupAsk("challenge", () => (sending === "start" ? "/api/challenge" : "/api/challenge/override"));
}

export function showChallenge(state) {
  const found = state.run.challenge;
  $("locked").hidden = !found?.locked;
  put($("locked"), found?.locked ? `Nothing passes: ${found.locked}` : "");
  $("tab-challenge").classList.toggle("waiting", Boolean(found && (found.due || found.locked)));
  $("challenge-start").disabled = !found || found.open !== null || !may(state, "operate");
  $("challenge-override").disabled = !found?.locked || found.open !== null || !may(state, "engineer");
  offer($("challenge-start"), state, "operate");
  offer($("challenge-override"), state, "engineer");
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
  openAsk("challenge", {
    title: override ? "Let the line pass without a passed challenge?" : "Show the known parts now?",
    text: override ? $("locked").textContent : "The parts that come next are taken for the known ones, in the order asked or by their ids.",
    yes: override ? "Override" : "Start",
    reasonNeeded: override,
  });
}
