// The health of engine, cameras, outputs, record; drift.

import { $, count, el, figure, moment, put, request, span, table } from "./dom.js";

let shownAt = 0;

export function showHealth(state) {
  if (performance.now() - shownAt < 900) return;
  shownAt = performance.now();
  const { run, about } = state;
  facts($("engine"), [
    ["Bundle", `${about.bundle} (${about.preset})`], ["Runs on", `${about.backend} ${about.precision}`],
    ["Capture to verdict", `p50 ${figure(run.latency_ms.p50, 1)} ms, p99 ${figure(run.latency_ms.p99, 1)} ms, most ${figure(run.latency_ms.max, 1)} ms`],
    ["Last completed cycle", `${span(run.cycle_age_s)} ago${run.cycle_limit_s ? ` (${run.cycle_limit_s} s allowed)` : ""}`],
    ["Memory", `${figure(run.memory_mb, 0)} MB`], ["Running since", `${moment(about.started)} (${span(run.uptime_s)})`],
    ["Thresholds", run.thresholds.told], ["Version", `edge-ad ${about.version}`],
  ]);
  const means = Object.entries(run.stages).map(([name, found]) => {
    const parts = found.counts.reduce((sum, value) => sum + value, 0);
    return [name === "total" ? "capture to verdict" : name, parts, parts ? (found.sum / parts) * 1000 : null];
  });
  table($("stages"), [["Stage"], ["Parts", "number"], ["Mean ms", "number"]], means.map(([name, parts, mean]) => [name, count(parts), figure(mean)]));
  table($("cameras"), [["Camera"], ["Shows"], ["Frames/s", "number"], ["Captured", "number"], ["Dropped", "number"], ["Lost", "number"],
    ["Faults", "number"], ["Outages", "number"], ["Reconnects", "number"], ["Stalls", "number"],
    ["Not located", "number"], ["Outside poses", "number"], ["Alarm"]],
  run.cameras.map((camera) => [camera.name, camera.show, figure(camera.fps, 1), count(camera.counters.captured), count(camera.counters.dropped),
    count(camera.counters.lost), count(camera.counters.faulted), count(camera.counters.outages), count(camera.counters.reconnects), count(camera.counters.stalls),
    count(camera.counters.unlocated), count(camera.counters.outside), camera.alarm]));
  showOutputs(run.outputs, about.require_alarms, run.at);
  showDrift(run.drift);
  showStore(run.store, run.faults);
}

export async function loadActions() {
  try {
    const actions = await request("/api/actions");
    put($("actions-told"), actions.length ? "what people and PLCs did, the newest first" : "nothing was done yet");
    table($("actions"), [["When"], ["What"], ["By"], ["From"], ["Why", "reason"]],
      actions.map(({ time, kind, by, origin, reason }) => [moment(time), kind, by, origin, reason || "–"]));
  } catch (error) {
    put($("actions-told"), error.message);
  }
}

function showOutputs(outputs, required, now) {
  const failing = outputs.filter((output) => output.fault !== null).length;
  const good = outputs.length ? (required ? "all must work (--require-alarms)" : "") : "none is set: start with --alarm URI";
  put($("outputs-told"), failing ? `${failing} of ${outputs.length} ${failing > 1 ? "do" : "does"} not work` : good);
  $("outputs-told").classList.toggle("bad", failing > 0);
  if (!outputs.length) return $("outputs").replaceChildren();
  table($("outputs"), [["Output"], ["State", "reason"], ["Since"], ["Faults", "number"]], outputs.map(({ name, fault, up, since, faults }) => [
    name, fault === null ? (up ? "works" : "not proven yet") : el("span", { class: "bad" }, `does not work: ${fault}`),
    since === null ? "–" : `${moment(since)} (${span(Math.max(now - since, 0))})`, count(faults)]));
}

function showDrift(drift) {
  if (!drift) {
    put($("drift-told"), "not watched");
    $("drift").replaceChildren();
    return;
  }
  put($("drift-told"), drift.warning || `${count(drift.parts)} parts, like the normal images`);
  $("drift-told").classList.toggle("bad", Boolean(drift.warning));
  table($("drift"), [["Score"], ["Mean z", "number"], ["Standard errors from normal images", "number"], ["p", "number"], ["State"]],
    Object.entries(drift.streams).map(([name, found]) => [name, figure(found.mean), figure(found.shift, 1), found.p < 0.001 ? "< 0.001" : figure(found.p, 3),
      drift.drifted.includes(name) ? "drifted" : ""]));
}

function showStore(store, faults) {
  const counted = Object.entries(faults.counts).map(([name, number]) => `${name} ${number}`).join(", ");
  const threads = [["Threads", faults.down || (counted ? `all work; faults: ${counted}` : "all work")]];
  facts($("store"), store === null ? [["Record", "none is kept: start with --store FILE"], ...threads] : [
    ["Events on the disk", count(store.committed)], ["Events that could not be stored", count(store.dropped)], ["State", store.fault || "stores"], ...threads]);
}

function facts(node, pairs) {
  node.replaceChildren(...pairs.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}
