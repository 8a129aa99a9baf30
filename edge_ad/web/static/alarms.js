// Alarms: what is lit, what waits for an acknowledge, what is over.

import { $, el, may, moment, note, offer, put, request } from "./dom.js";

const PHASE = { alarm: "not acknowledged", acknowledged: "acknowledged, cause still there", latched: "cause gone, not acknowledged", held: "going out", over: "over" };
let number = 0;
let listed = "";

export function setupAlarms() {
  $("acknowledge").addEventListener("click", acknowledge);
}

export function showAlarms(state) {
  const run = state.run;
  number = run.lamp.number;
  const button = $("acknowledge");
  button.disabled = !run.lamp.waiting || !may(state, "operate");
  offer(button, state, "operate");
  put(button, run.lamp.waiting ? `Acknowledge ${number}` : "Acknowledge");
  $("tab-line").classList.toggle("waiting", run.lamp.waiting);
  const key = JSON.stringify(run.alarms);
  if (key === listed) return;
  listed = key;
  const items = run.alarms.slice(0, 30).map((alarm) =>
    el("li", { class: alarm.open ? (alarm.waiting ? "waiting" : "lit") : "over" },
      el("b", {}, `${alarm.waiting ? "▲ " : ""}Alarm ${alarm.number}`),
      el("span", {}, alarm.open ? PHASE[alarm.phase] || alarm.phase : "over"),
      el("small", {}, `${moment(alarm.raised)}${alarm.ended ? ` to ${moment(alarm.ended)}` : ""}${run.cameras.length > 1 ? ` · ${alarm.name}` : ""}`),
      alarm.reason ? el("small", { class: "reason" }, alarm.reason) : null));
  $("alarm-list").replaceChildren(...(items.length ? items : [el("li", { class: "empty" }, "No alarm since the start")]));
}

export async function acknowledge() {
  if ($("acknowledge").disabled) return;
  const seen = number;
  try {
    await request(`/api/alarms/${seen}/acknowledge`, {});
    note(`Alarms up to ${seen} are acknowledged`);
  } catch (error) {
    note(`Not acknowledged: ${error.message}`);
  }
}
