// Branch scores of the newest part as bars in z, with both thresholds of the score drawn through.

import { $, el, figure, put } from "./dom.js";

let rows = null;
let known = "";

export function showBars(run, about, place) {
  const camera = run.cameras[place] || run.cameras[0];
  const event = camera.event;
  const names = Object.keys(about.weights || {});
  const key = names.join();
  if (rows === null || key !== known) build(names, about, key);
  const z = event && event.score !== null ? event.z : {};
  const { warn, ng } = run.thresholds;
  const values = [...Object.values(z), event?.score ?? 0, ng * 1.15, warn].filter((value) => value !== null);
  // A score far beyond must not press the thresholds into a corner: its bar ends at the edge.
  const high = Math.min(Math.max(...values, 1), Math.max(ng * 4, 1));
  const low = Math.min(0, Math.max(Math.min(...values), -high / 3));
  const part = (value) => `${Math.min(Math.max(((value - low) / (high - low)) * 100, 0), 100)}%`;
  const box = $("bars");
  for (const [name, value] of [["--zero", 0], ["--warn-at", warn], ["--ng-at", ng]]) box.style.setProperty(name, part(value));
  for (const [name, row] of Object.entries(rows)) {
    const value = name === "score" ? event?.score ?? null : z[name] ?? null;
    put(row.number, figure(value));
    row.bar.style.left = part(Math.min(value ?? 0, 0));
    row.bar.style.width = `calc(${part(Math.max(value ?? 0, 0))} - ${part(Math.min(value ?? 0, 0))})`;
    row.bar.dataset.level = value === null ? "" : value > ng ? "NG" : value > warn ? "WARN" : "OK";
  }
  put($("bars-limits"), `WARN above ${figure(warn)} · NG above ${figure(ng)}`);
}

function build(names, about, key) {
  known = key;
  rows = {};
  const line = (name, hint) => {
    const bar = el("i");
    const number = el("span", { class: "number" }, "–");
    rows[name] = { bar, number };
    return el("div", { class: name === "score" ? "row total" : "row", role: "listitem" },
      el("span", { class: "name" }, name, hint ? el("small", {}, hint) : null), el("span", { class: "track", "aria-hidden": "true" }, bar), number);
  };
  $("bars").replaceChildren(
    el("div", { role: "list" }, ...names.map((name) => line(name, ` × ${figure(about.weights[name], 2)}`)), line("score", "")),
    el("p", { id: "bars-limits", class: "quiet" }),
  );
}
