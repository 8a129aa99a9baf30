// Thresholds: try them on recent events, then apply them while the line runs.

import { $, colour, count, figure, may, note, offer, put, request, sharp, table } from "./dom.js";

let now = null;
let state = null;
let timer = 0;
let last = null;
const typed = new Set();  // what somebody changed since the thresholds were asked for: the answer must not overwrite it

export function setupThresholds() {
  for (const name of ["warn", "ng"]) {
    $(name).addEventListener("input", () => { typed.add(name); $(`${name}-range`).value = $(name).value; later(); });
    $(`${name}-range`).addEventListener("input", () => { typed.add(name); $(name).value = Number($(`${name}-range`).value).toPrecision(5) * 1; later(); });
  }
  $("span").addEventListener("change", later);
  $("restore").addEventListener("click", () => { now = null; loadThresholds(); });
  $("tune").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  addEventListener("resize", () => last && drawHistogram());
}

export function thresholdsState(found) {
  const changed = now && found.run && (found.run.thresholds.warn !== now.warn || found.run.thresholds.ng !== now.ng);
  state = found;
  if (changed && !$("panel-thresholds").hidden) loadThresholds(true);
}

export async function loadThresholds(keep = false) {
  typed.clear();
  try {
    now = await request("/api/thresholds");
  } catch (error) {
    put($("preview-told"), error.message);
    return;
  }
  put($("tune-now"), now.warn === null ? now.told : `now: WARN above ${figure(now.warn)}, NG above ${figure(now.ng)}`);
  const locked = now.locked || (!state || may(state, "engineer") ? null : state.user ? "it takes an engineer" : "this token may look, not change anything");
  $("tune-locked").hidden = !locked;
  put($("tune-locked"), locked ? `They cannot be changed here: ${locked}.` : "");
  if (!keep && now.warn !== null) {
    const high = Math.max(now.ng * 2, now.ng + 5);
    for (const name of ["warn", "ng"]) {
      Object.assign($(`${name}-range`), { min: Math.min(0, now.warn), max: high, step: high / 500 });
      if (typed.has(name)) continue;
      $(name).value = Number(now[name].toPrecision(5));
      $(`${name}-range`).value = now[name];
    }
  }
  later();
}

function later() {
  const ready = now && now.warn !== null;
  const [warn, ng] = [Number($("warn").value), Number($("ng").value)];
  const wrong = !ready || $("warn").value === "" || $("ng").value === "" || warn > ng;
  $("ng").setCustomValidity(warn > ng ? "WARN must not lie above NG" : "");
  const same = ready && Math.abs(warn - now.warn) < 1e-4 * Math.abs(now.warn) && Math.abs(ng - now.ng) < 1e-4 * Math.abs(now.ng);
  $("apply").disabled = wrong || same || Boolean(now.locked) || !may(state, "engineer");
  if (state) offer($("apply"), state, "engineer");
  clearTimeout(timer);
  if (!wrong) timer = setTimeout(() => preview(warn, ng), 150);
  else if (ready) put($("preview-told"), warn > ng ? "WARN must not lie above NG." : "");
}

async function preview(warn, ng) {
  try {
    last = await request(`/api/thresholds/preview?${new URLSearchParams({ warn, ng, hours: $("span").value })}`);
  } catch (error) {
    put($("preview-told"), error.status === 404 ? "No record is kept: start with --store FILE" : error.message);
    return;
  }
  put($("preview-told"), last.told);
  const minutes = last.hours * 60;
  const covered = minutes < 90 ? `${Math.max(1, Math.round(minutes))} min` : `${figure(last.hours, 1)} h`;
  put($("preview-span"), `${count(last.judged)} parts in ${covered}${last.limited ? " (the newest 10,000)" : ""}, ${count(last.faults)} faults left out`);
  table($("preview-table"), [["Verdict"], ["As judged", "number"], ["At these", "number"], ["Change", "number"]],
    ["OK", "WARN", "NG"].map((name) => [name, count(last.before[name]), count(last.counts[name]), signed(last.counts[name] - last.before[name])]));
  drawHistogram(warn, ng);
}

const signed = (value) => (value > 0 ? `+${count(value)}` : value < 0 ? `−${count(-value)}` : "0");

function drawHistogram(warn = Number($("warn").value), ng = Number($("ng").value)) {
  const { pen, width, height } = sharp($("histogram"));
  const most = Math.max(1, ...last.histogram);
  const x = (score) => ((score - last.low) / (last.high - last.low)) * width;
  const wide = width / last.histogram.length;
  for (const [index, found] of last.histogram.entries()) {
    const middle = last.low + ((index + 0.5) / last.histogram.length) * (last.high - last.low);
    pen.fillStyle = colour(middle > ng ? "ng" : middle > warn ? "warn" : "ok");
    // The root keeps the few that matter in sight beside the many that do not.
    const tall = Math.sqrt(found / most) * (height - 26);
    pen.fillRect(index * wide + 1, height - 4 - tall, wide - 2, tall);
  }
  for (const [name, value, dash, at] of [["WARN", warn, [6, 4], false], ["NG", ng, [], true]]) {
    pen.strokeStyle = pen.fillStyle = colour("text");
    pen.setLineDash(dash);
    pen.lineWidth = 2;
    pen.beginPath();
    pen.moveTo(x(value), 2);
    pen.lineTo(x(value), height - 4);
    pen.stroke();
    pen.setLineDash([]);
    pen.font = "600 12px system-ui, sans-serif";
    const left = at ? x(value) > width - 40 : x(value) > 60;
    pen.textAlign = left ? "right" : "left";
    pen.fillText(name, x(value) + (left ? -5 : 5), at || left ? 12 : 27);
  }
  pen.textAlign = "left";
}

function ask() {
  if ($("apply").disabled) return;
  const [warn, ng] = [Number($("warn").value), Number($("ng").value)];
  put($("confirm-told"), `WARN above ${figure(warn)}, NG above ${figure(ng)}. ${last ? last.told : ""} The line goes on meanwhile; set by hand, they promise no rate of normal images.`);
  const dialog = $("confirm");
  dialog.returnValue = "no";
  dialog.onclose = () => dialog.returnValue === "yes" && apply(warn, ng);
  dialog.showModal();
}

async function apply(warn, ng) {
  $("apply").disabled = true;
  try {
    const found = await request("/api/thresholds", { warn, ng, reason: $("reason").value });
    note(found.told);
    $("reason").value = "";
  } catch (error) {
    note(`Not applied: ${error.message}`);
  }
  now = null;
  loadThresholds();
}
