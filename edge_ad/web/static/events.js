// The event browser: filters, pages, pictures and marks.

import { $, chip, el, figure, may, moment, note, put, request } from "./dom.js";

const LIMIT = 50;
let page = [];
let before = null;
let older = null;
let chosen = null;
let known = null;
let asking = 0;

export function setupEvents() {
  const form = $("filters");
  form.addEventListener("input", () => { before = null; loadEvents(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => { before = null; loadEvents(); }));
  $("newest").addEventListener("click", () => { before = null; loadEvents(); });
  $("older").addEventListener("click", () => { before = older; loadEvents(); });
}

export function eventsState(state) {
  known = state;
  const cameras = state.run ? state.run.cameras : [];
  const label = $("camera-filter");
  const select = label.querySelector("select");
  if (cameras.length > 1 && select.options.length !== cameras.length + 1) {
    label.hidden = false;
    select.append(...cameras.map((camera) => el("option", { value: camera.name }, camera.name)));
  }
}

export function refreshEvents() {
  if (before === null && !$("panel-events").hidden) loadEvents();
}

function query() {
  const form = new FormData($("filters"));
  const found = new URLSearchParams({ limit: LIMIT });
  for (const verdict of form.getAll("verdict")) found.append("verdict", verdict);
  for (const name of ["mark", "camera", "part"]) if (form.get(name)) found.set(name, form.get(name).trim());
  for (const name of ["since", "until"]) if (form.get(name)) found.set(name, new Date(form.get(name)).getTime() / 1000);
  if (before !== null) found.set("before", before);
  return found;
}

export async function loadEvents() {
  const asked = ++asking;
  try {
    const found = await request(`/api/events?${query()}`);
    if (asked !== asking) return;
    page = found.events;
    older = found.before;
    show();
  } catch (error) {
    if (asked !== asking) return;
    page = [];
    $("rows").replaceChildren(el("tr", {}, el("td", { colspan: 6, class: "empty" }, error.message)));
    put($("results-told"), "");
  }
}

function show() {
  const focused = document.activeElement?.dataset?.id;
  $("older").disabled = older === null;
  put($("results-told"), page.length ? `${page.length}${older === null ? "" : "+"}, newest first${before === null ? "" : ", older page"}` : "");
  const rows = page.map((event) =>
    el("tr", { "aria-current": chosen?.id === event.id ? "true" : null, onclick: () => choose(event) },
      el("td", { "data-name": "Time" }, el("button", { class: "link", "data-id": event.id }, moment(event.time))),
      el("td", { "data-name": "Verdict" }, chip(event.verdict)),
      el("td", { class: "number", "data-name": "Score" }, figure(event.score)),
      el("td", { "data-name": "Part" }, event.part ?? "–"),
      el("td", { class: "reason", "data-name": "Reason" }, event.reason ?? ""),
      el("td", { "data-name": "Mark" }, event.mark ? `was ${event.mark}` : "")));
  $("rows").replaceChildren(...(rows.length ? rows : [el("tr", {}, el("td", { colspan: 6, class: "empty" }, "No such event"))]));
  if (focused) $("rows").querySelector(`[data-id="${focused}"]`)?.focus();
}

export function step(by) {
  const at = page.findIndex((event) => event.id === chosen?.id);
  const next = page[at < 0 ? 0 : Math.min(Math.max(at + by, 0), page.length - 1)];
  if (next) {
    choose(next);
    $("rows").querySelector(`[data-id="${next.id}"]`)?.focus();
  }
}

function choose(event) {
  chosen = event;
  for (const row of $("rows").children)
    row.toggleAttribute("aria-current", row.querySelector("[data-id]")?.dataset.id === event.id);
  for (const row of $("rows").querySelectorAll("[aria-current]")) row.setAttribute("aria-current", "true");
  detail(event);
  if (matchMedia("(max-width: 60rem)").matches) $("detail").scrollIntoView({ block: "start" });
}

function detail(event) {
  const names = event.views ? viewImages(event.views) : ["As judged", "Heat map", "More", "More"];
  const pictures = Array.from({ length: event.images }, (_, index) =>
    el("figure", {}, el("img", { src: `/api/events/${event.id}/images/${index}`, alt: `${names[index] || "Image"} of part ${event.part ?? ""}`, loading: "lazy" }),
      el("figcaption", {}, names[index] || "")));
  const marks = [["good", "Was good", "G"], ["bad", "Was bad", "B"], [null, "No mark", "U"]].map(([mark, label, key]) =>
    el("button", { "aria-pressed": String(event.mark === mark), disabled: !may(known, "operate"), title: `${label} (${key})`, onclick: () => setMark(mark) }, label));
  const facts = [["Time", moment(event.time)], ["Part", event.part ?? "–"], ["Score", figure(event.score, 3)],
    ["Reason", event.reason ?? "–"], ["Camera", event.camera], ["Frame", event.frame ?? "–"],
    ["Latency", event.latency_ms === null ? "–" : `${figure(event.latency_ms, 1)} ms`],
    ...Object.entries(event.z).map(([name, value]) => [`z ${name}`, figure(value)]), ...place(event.pose),
    ...(event.views ?? []).map((view) => [`View ${view.view}`,
      [view.verdict, view.score === null ? "" : `score ${figure(view.score, 3)}`, view.reason ?? ""].filter(Boolean).join(" · ")])];
  const children = [
    el("div", { class: "head" }, el("h2", {}, chip(event.verdict), ` part ${event.part ?? "–"}`)),
    event.images ? el("div", { class: "pictures" }, ...pictures) : el("p", { class: "empty" }, "No image was kept of this event"),
    known?.user && !may(known, "operate") ? null : el("div", { class: "buttons", role: "group", "aria-label": "Mark" }, ...marks),
    el("dl", { class: "facts" }, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))]))];
  $("detail").replaceChildren(...children.filter(Boolean));
}

// Images come in the order of their files, which end in the names of the views.
function viewImages(views) {
  const seen = views.filter((view) => view.frame !== null).sort((one, other) => (one.view < other.view ? -1 : 1));
  return seen.flatMap((view) => [`View ${view.view}`, ...(view.score === null ? [] : [`View ${view.view}, heat map`])]);
}

function place(pose) {
  if (!pose) return [];
  const facts = [["Place", `x ${figure(pose.x, 1)}, y ${figure(pose.y, 1)}, turned by ${figure(pose.angle, 1)}°${pose.symmetric ? " (symmetric)" : ""}`],
    ["Box", `${figure(pose.width, 0)} × ${figure(pose.height, 0)} px, scale ${figure(pose.scale, 3)}`],
    ["Residual", pose.residual === null ? "–" : `${figure(pose.residual * 100, 1)} %`]];
  return pose.outside ? [...facts, ["Warning", pose.outside]] : facts;
}

export async function setMark(mark) {
  if (!chosen || !may(known, "operate")) return;
  const event = chosen;
  try {
    const found = await request(`/api/events/${event.id}/mark`, { mark });
    page = page.map((one) => (one.id === found.id ? found : one));
    if (chosen?.id === found.id) {
      chosen = found;
      detail(found);
    }
    show();
    note(mark ? `Part ${found.part ?? ""} is marked: was ${mark}` : "The mark is taken away");
  } catch (error) {
    note(`Not marked: ${error.message}`);
  }
}
