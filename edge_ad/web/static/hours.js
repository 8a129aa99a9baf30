// Verdicts of each of the last 24 hours, as stacked bars and as a table.

import { $, count, el, request, table } from "./dom.js";

const VERDICTS = ["OK", "WARN", "NG", "NONE"];

export async function showHours() {
  let found;
  try {
    found = await request("/api/counts?hours=24");
  } catch (error) {
    $("hours").replaceChildren(el("p", { class: "empty" }, error.status === 404 ? "No record is kept: start with --store FILE" : error.message));
    return;
  }
  const known = new Map(found.map((hour) => [Math.round(hour.start / 3600), hour.verdicts]));
  const now = Math.floor(Date.now() / 3600000);
  const hours = Array.from({ length: 24 }, (_, index) => now - 23 + index);
  const of = (hour, verdict) => known.get(hour)?.[verdict] || 0;
  const total = (hour) => VERDICTS.reduce((sum, verdict) => sum + of(hour, verdict), 0);
  const most = Math.max(1, ...hours.map(total));
  const label = (hour) => `${String(new Date(hour * 3600000).getHours()).padStart(2, "0")}:00`;
  $("hours").replaceChildren(
    el("span", { class: "most" }, count(most)),
    ...hours.map((hour) => {
      const stack = el("span", { class: "stack" });
      for (const verdict of VERDICTS) {
        const piece = el("i", { "data-show": verdict });
        piece.style.height = of(hour, verdict) ? `max(2px, ${(of(hour, verdict) / most) * 100}%)` : "0";
        stack.append(piece);
      }
      const told = `${label(hour)}: ${VERDICTS.map((verdict) => `${verdict} ${of(hour, verdict)}`).join(", ")}`;
      return el("span", { class: "hour", title: told }, stack, el("small", {}, new Date(hour * 3600000).getHours() % 4 ? "" : label(hour).slice(0, 2)));
    }));
  table($("hours-table"), [["Hour"], ...VERDICTS.map((verdict) => [verdict, "number"]), ["All", "number"]],
    hours.filter(total).reverse().map((hour) => [label(hour), ...VERDICTS.map((verdict) => count(of(hour, verdict))), count(total(hour))]));
}
