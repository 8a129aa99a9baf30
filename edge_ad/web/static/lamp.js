// The lamp: a word, a shape and a colour, for all cameras together; the worst one counts.

import { $, clock, put, span } from "./dom.js";

const ORDER = ["NONE", "NG", "WARN", "IDLE", "OK"];
const SHAPE = {
  OK: '<circle cx="50" cy="50" r="46" class="body"/><path class="sign" d="M27 52l16 17 31-37"/>',
  WARN: '<path class="body" d="M50 5L97 92H3z"/><path class="sign" d="M50 36v26M50 76v1"/>',
  NG: '<path class="body" d="M31 4h38l27 27v38L69 96H31L4 69V31z"/><path class="sign" d="M32 32l36 36M68 32L32 68"/>',
  NONE: '<rect x="5" y="5" width="90" height="90" rx="4" class="body"/><path class="sign" d="M36 38c0-20 29-19 29-2 0 12-15 11-15 25M50 77v1"/>',
  IDLE: '<circle cx="50" cy="50" r="44" class="open"/><path class="sign" d="M40 35v30M60 35v30"/>',
  LOST: '<circle cx="50" cy="50" r="44" class="open dashed"/><path class="sign" d="M32 32l36 36M68 32L32 68"/>',
};
const WORD = { LOST: "NO DATA" };
const REJECTS = { NONE: "counts as reject" };

let shown = null;
let saidAt = 0;
let pending = 0;

export function worst(cameras) {
  return cameras.reduce((found, camera) =>
    found === null || ORDER.indexOf(camera.show) < ORDER.indexOf(found.show) ? camera : found, null);
}

export function showLamp(run) {
  const camera = worst(run.cameras);
  const why = [run.cameras.length > 1 ? `camera ${run.cameras.indexOf(camera) + 1}` : "", camera.why, REJECTS[camera.show]].filter(Boolean).join(" · ");
  const since = camera.age_s === null ? "" :
    camera.show === "IDLE" ? `last verdict ${camera.event.verdict}, ${span(camera.age_s)} ago` : `${span(camera.age_s)} ago`;
  paint(camera.show, why || "like the normal images", since);
}

export function lampLost(why, since) {
  paint("LOST", why, `since ${clock(since)} (${span(Date.now() / 1000 - since)})`);
}

export function lampWaiting(why) {
  paint("LOST", why, "");
}

function paint(show, why, since) {
  put($("lamp-why"), why);
  put($("lamp-since"), since);
  if (show === shown) return;
  shown = show;
  const word = WORD[show] || show;
  for (const node of [$("lamp"), $("mini")]) node.dataset.show = show;
  $("lamp-shape").innerHTML = SHAPE[show];
  put($("lamp-word"), word);
  put($("mini"), word);
  document.title = `${word} – edge-ad`;
  say();
}

// Announce what lasts, not every part of a fast line.
function say() {
  clearTimeout(pending);
  const wait = Math.max(700, 2500 - (performance.now() - saidAt));
  pending = setTimeout(() => {
    saidAt = performance.now();
    put($("say"), shown === "LOST" ? "No data from the inspector" : `Verdict ${shown}`);
  }, wait);
}
