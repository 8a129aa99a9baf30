// Small helpers: elements, numbers and times as people read them, requests to the server.

export const $ = (id) => document.getElementById(id);

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// Texts are set only when they change, so that nothing is announced or painted twice.
export function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export const SHAPES = { OK: "●", WARN: "▲", NG: "◆", NONE: "✕", IDLE: "○", LOST: "–" };

export const chip = (verdict) => el("span", { class: "verdict", "data-show": verdict }, `${SHAPES[verdict]} ${verdict}`);

export function figure(value, digits = 2) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  return value.toFixed(size >= 1000 ? 0 : size >= 100 ? Math.min(digits, 1) : digits);
}

export const count = (value) => (value === null || value === undefined ? "–" : value.toLocaleString("en-GB"));

export function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB");
}

export function moment(seconds) {
  const then = new Date(seconds * 1000);
  const today = new Date().toDateString() === then.toDateString();
  const day = today ? "" : `${then.toLocaleDateString("en-GB", { day: "2-digit", month: "short" })} `;
  return `${day}${then.toLocaleTimeString("en-GB")}`;
}

export function span(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${seconds.toFixed(0)} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} days`;
}

export async function request(path, body) {
  const options = { cache: "no-store", headers: { "X-Edge-Ad": "1" } };
  if (body !== undefined) {
    options.method = "POST";
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  const answer = await fetch(path, options);
  if (answer.status === 401) location.assign("/login");
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({}));
    throw Object.assign(new Error(told.error || `the server answers ${answer.status}`), { status: answer.status });
  }
  return answer.json();
}

// What the role of this page may do; what a user may not use is not offered at all.
export const may = (state, permission) => Boolean(state?.may.includes(permission));

export function offer(node, state, permission) {
  node.hidden = state.user !== null && !may(state, permission);
}

let hideNote = 0;
export function note(text) {
  const node = $("note");
  node.hidden = false;
  put(node, text);
  clearTimeout(hideNote);
  hideNote = setTimeout(() => (node.hidden = true), 7000);
}

export function table(node, head, rows) {
  node.replaceChildren(
    el("thead", {}, el("tr", {}, ...head.map(([name, kind]) => el("th", { scope: "col", class: kind }, name)))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((cell, place) =>
      el(place ? "td" : "th", { class: head[place][1], scope: place ? null : "row" }, cell))))),
  );
}

export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// A canvas that is as sharp as the screen; returns its drawing context in CSS pixels.
export function sharp(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const ratio = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  return { pen, width, height };
}
