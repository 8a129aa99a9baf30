"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const get = (id) => document.getElementById(id);
const canvas = get("image"), pen = canvas.getContext("2d"), picture = new Image();
const COLOURS = { ignore: "#d1242f", inspect: "#1a7f37", sensitivity: "#bf8700" };
const zones = data.zones;
let open = [], cross = [Math.round(data.width / 2), Math.round(data.height / 2)];

function say(text) { get("status").textContent = text; }

function trace(points, colour, closed) {
  const scale = Math.max(data.width, data.height) / 640;
  pen.beginPath();
  points.forEach(([x, y], index) => (index ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  if (closed) { pen.closePath(); pen.fillStyle = colour + "55"; pen.fill(); }
  pen.lineWidth = 2 * scale;
  pen.strokeStyle = colour;
  pen.stroke();
  for (const [x, y] of points) { pen.fillStyle = colour; pen.fillRect(x - 3 * scale, y - 3 * scale, 6 * scale, 6 * scale); }
}

function draw() {
  pen.drawImage(picture, 0, 0, data.width, data.height);
  zones.forEach((zone) => trace(zone.points, COLOURS[zone.kind], true));
  trace(open, COLOURS[get("kind").value], false);
  if (document.activeElement === canvas) {
    const scale = Math.max(data.width, data.height) / 640, [x, y] = cross;
    trace([[x - 12 * scale, y], [x + 12 * scale, y]], "#1f6feb", false);
    trace([[x, y - 12 * scale], [x, y + 12 * scale]], "#1f6feb", false);
  }
}

function cell(row, child) { const box = row.insertCell(); box.append(child); return box; }

function list() {
  get("rows").replaceChildren();
  zones.forEach((zone, index) => {
    const row = get("rows").insertRow(), corners = document.createElement("input"), remove = document.createElement("button");
    cell(row, zone.kind);
    cell(row, zone.name || "");
    cell(row, zone.kind === "sensitivity" ? String(zone.factor) : "");
    corners.value = zone.points.map((point) => point.join(",")).join(" ");
    corners.setAttribute("aria-label", `Corners of zone ${index + 1}`);
    corners.addEventListener("change", () => {
      const points = corners.value.trim().split(/\s+/).map((pair) => pair.split(",").map(Number));
      const fault = faultOf(points);
      if (fault) { say(fault); return; }
      zone.points = points;
      say(`zone ${index + 1} has ${points.length} corners`);
      draw();
    });
    cell(row, corners);
    remove.type = "button";
    remove.textContent = `Remove ${index + 1}`;
    remove.addEventListener("click", () => { zones.splice(index, 1); list(); draw(); say(`zone ${index + 1} is removed`); });
    cell(row, remove);
  });
}

function faultOf(points) {
  if (points.length < 3) { return "a zone needs three corners"; }
  const inside = ([x, y, more]) => more === undefined && x >= 0 && y >= 0 && x <= data.width && y <= data.height;
  return points.every(inside) ? "" : `a corner lies outside the image of ${data.width} x ${data.height} pixels`;
}

function add(point) {
  open.push(point);
  say(`corner ${open.length} at ${point.join(", ")}`);
  draw();
}

function finish() {
  const fault = faultOf(open), kind = get("kind").value, factor = Number(get("factor").value);
  if (fault) { say(fault); return; }
  if (kind === "sensitivity" && !(factor > 0 && factor <= 10)) { say("a factor is above 0 and at most 10"); return; }
  zones.push({ kind, ...(get("name").value ? { name: get("name").value } : {}), ...(kind === "sensitivity" ? { factor } : {}), points: open });
  open = [];
  say(`zone ${zones.length} is closed; save when all are drawn`);
  list();
  draw();
}

function back() { open.pop(); say(`${open.length} corners`); draw(); }

async function send(text) {
  say("saving");
  try {
    const answer = await fetch(data.save, { method: "POST", body: text, headers: { "Content-Type": "application/json", "X-Edge-Ad": "1" } });
    const told = await answer.json();
    say(answer.ok ? told.told : `not saved: ${told.error}`);
  } catch { say("not saved: the dashboard does not answer"); }
}

function limit(value, most) { return Math.min(Math.max(value, 0), most); }

canvas.addEventListener("pointerdown", (event) => {
  const box = canvas.getBoundingClientRect();
  cross = [
    limit(Math.round(((event.clientX - box.left) / box.width) * data.width), data.width),
    limit(Math.round(((event.clientY - box.top) / box.height) * data.height), data.height),
  ];
  canvas.focus();
  add([...cross]);
});
canvas.addEventListener("keydown", (event) => {
  const step = event.shiftKey ? 10 : 1;
  const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
  if (moves[event.key]) {
    cross = [limit(cross[0] + moves[event.key][0], data.width), limit(cross[1] + moves[event.key][1], data.height)];
    say(`${cross.join(", ")}`);
    draw();
  } else if (event.key === "Enter") { add([...cross]); } else if (event.key === "c" || event.key === "C") { finish(); } else if (event.key === "Backspace") { back(); } else if (event.key === "Escape") { open = []; say("the open zone is dropped"); draw(); } else { return; }
  event.preventDefault();
});
canvas.addEventListener("focus", draw);
canvas.addEventListener("blur", draw);
get("kind").addEventListener("change", draw);
get("close").addEventListener("click", finish);
get("back").addEventListener("click", back);
get("save").addEventListener("click", () => {
  if (open.length) { say("close the open zone first"); return; }
  if (!zones.length) { say("no zone is drawn"); return; }
  const text = JSON.stringify({ format: data.format, version: data.version, width: data.width, height: data.height, zones }, null, 1);
  if (data.save) { send(text); return; }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text + "\n"], { type: "application/json" }));
  link.download = data.file;
  link.click();
  say(`saved as ${data.file}; move it to ${data.place}, then: edge-ad train DATA --zones ${data.place}`);
});
picture.addEventListener("load", () => { canvas.width = data.width; canvas.height = data.height; canvas.style.width = `min(100%, calc(75vh * ${data.width / data.height}))`; list(); draw(); });
picture.src = data.image;
