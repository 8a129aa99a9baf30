// The live picture: fetched when there is a new one, drawn with its heat map on top.

import { $, SHAPES, clock, el, figure, put, span } from "./dom.js";

let place = 0;
let names = "";
let heatOn = localStorage.getItem("heat") !== "off";
let drawn = 0;
let busy = false;
let base = null;
let over = null;
let newest = null;
let shown = null;

export function setupPicture() {
  const button = $("heat");
  button.setAttribute("aria-pressed", String(heatOn));
  button.addEventListener("click", toggleHeat);
}

export function toggleHeat() {
  heatOn = !heatOn;
  localStorage.setItem("heat", heatOn ? "on" : "off");
  $("heat").setAttribute("aria-pressed", String(heatOn));
  if (heatOn && base && !over && newest) fetchPicture();
  else draw();
}

export const selected = () => place;

export function nextCamera(run) {
  if (run && run.cameras.length > 1) choose((place + 1) % run.cameras.length);
}

function choose(next) {
  place = next;
  drawn = 0;
  newest = shown = null;
  base = over = null;
  for (const [index, button] of [...$("camera-tabs").children].entries())
    button.setAttribute("aria-pressed", String(index === place));
  draw();
}

const titleOf = (camera) => (camera.view ? `${camera.view.name}: ${camera.name}` : camera.name);

export function showPicture(state) {
  const cameras = state.run.cameras;
  const now = JSON.stringify(cameras.map((camera) => camera.name));
  if (now !== names) {
    names = now;
    $("camera-tabs").replaceChildren(...(cameras.length < 2 ? [] : cameras.map((camera, index) =>
      el("button", { "aria-pressed": String(index === place), title: titleOf(camera), onclick: () => choose(index) }))));
  }
  for (const [index, button] of [...$("camera-tabs").children].entries())
    put(button, `${index + 1} ${SHAPES[cameras[index].show]} ${cameras[index].show}`);
  put($("camera-title"), cameras[place].view?.name ?? cameras[place].name);
  $("camera-title").title = titleOf(cameras[place]);
  const offered = state.pictures[place];
  if (offered && offered.number > drawn && !busy && !document.hidden && !$("panel-line").hidden) {
    newest = offered;
    fetchPicture();
  }
  caption();
}

async function fetchPicture() {
  if (busy) return;
  busy = true;
  const wanted = newest;
  const of = `?number=${wanted.number}`;
  const at = place;
  try {
    const [image, heat] = await Promise.all([
      wanted.image ? load(`/api/cameras/${at}/picture${of}`) : null,
      wanted.heat && heatOn ? load(`/api/cameras/${at}/heat${of}`) : null]);
    // Gone already where the way is slow: the next one is on offer by now.
    if (at !== place || (wanted.image && !image)) {
      image?.bitmap.close();
      heat?.bitmap.close();
      return;
    }
    base?.bitmap.close();
    over?.bitmap.close();
    base = image;
    over = heat;
    shown = wanted;
    drawn = wanted.number;
    draw();
    caption();
  } catch {
    // The watch over the connection says what is wrong.
  } finally {
    busy = false;
  }
}

async function load(path) {
  const answer = await fetch(path, { cache: "no-store" });
  if (answer.status !== 200) return null;
  return { bitmap: await createImageBitmap(await answer.blob()) };
}

function draw() {
  const canvas = $("picture");
  $("no-picture").hidden = base !== null;
  canvas.hidden = base === null;
  put($("no-picture"), shown === null ? "No image yet" : "No image of this part");
  $("figure").dataset.show = shown === null ? "" : shown.verdict;
  if (base === null) return;
  const { width, height } = base.bitmap;
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const pen = canvas.getContext("2d");
  pen.drawImage(base.bitmap, 0, 0);
  if (heatOn && over) {
    pen.imageSmoothingEnabled = true;
    pen.drawImage(over.bitmap, 0, 0, width, height);
  }
  canvas.setAttribute("aria-label", `Image of part ${shown.part ?? ""}, ${shown.verdict}`);
}

function caption() {
  if (!shown) return put($("caption"), "");
  const age = Date.now() / 1000 - shown.time;
  const parts = [shown.verdict, shown.part === null ? "" : `part ${shown.part}`, `frame ${shown.frame}`,
    shown.score === null ? "" : `score ${figure(shown.score)}`, shown.outside ? `warning: ${shown.outside}` : "",
    age > 5 ? `taken ${clock(shown.time)}, ${span(age)} ago` : ""];
  put($("caption"), parts.filter(Boolean).join(" · "));
  $("figure").classList.toggle("old", age > 10);
}
