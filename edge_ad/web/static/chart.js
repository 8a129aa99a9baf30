// The score of the last parts against both thresholds.

import { $, colour, figure, put, sharp } from "./dom.js";

const MOST = 300;
let events = [];
let drawnAt = 0;

export function addEvents(found, restarted) {
  if (restarted) events = [];
  events.push(...found);
  if (events.length > 4 * MOST) events = events.slice(-2 * MOST);
}

// Of a part that several cameras see each has a score of its own, but where the fused score of the part decides.
const scored = (event, view) => (view?.thresholds && event.views?.find((row) => row.view === view.name)) || event;

export function drawChart(run, place, force = false) {
  if (!force && performance.now() - drawnAt < 180) return;
  drawnAt = performance.now();
  const { view } = run.cameras[place];
  const mine = events.filter((event) => event.views || event.camera === place).slice(-MOST).map((event) => scored(event, view));
  const { pen, width, height } = sharp($("chart"));
  const { warn, ng } = view?.thresholds ?? run.thresholds;
  const frame = { left: 6, right: 84, top: 10, bottom: 16 };
  const scores = mine.map((event) => event.score).filter((score) => score !== null).sort((a, b) => a - b);
  const usual = scores.length ? scores[Math.floor(scores.length * 0.97)] : ng;
  const high = Math.max(ng * 1.25, ng + 1, Math.min(usual * 1.1, ng * 6));
  const low = Math.min(warn, scores[0] ?? 0, 0);
  const x = (index) => frame.left + ((width - frame.left - frame.right) * (index + 0.5)) / Math.max(mine.length, 40);
  const y = (score) => height - frame.bottom - ((Math.min(Math.max(score, low), high) - low) / (high - low)) * (height - frame.top - frame.bottom);
  band(pen, frame.left, width - frame.right, frame.top, y(ng), colour("ng-soft"));
  band(pen, frame.left, width - frame.right, y(ng), y(warn), colour("warn-soft"));
  limit(pen, frame.left, width - frame.right, y(ng), `NG ${figure(ng)}`, colour("ng"), [], colour("text"));
  const apart = Math.abs(y(warn) - y(ng)) < 14 ? 14 - Math.abs(y(warn) - y(ng)) : 0;
  limit(pen, frame.left, width - frame.right, y(warn), `WARN ${figure(warn)}`, colour("warn"), [6, 4], colour("text"), apart);
  for (const [index, event] of mine.entries()) mark(pen, event, x(index), event.score === null ? height - frame.bottom + 6 : y(event.score));
  const bad = mine.filter((event) => event.verdict !== "OK").length;
  put($("chart-told"), mine.length ? `last ${mine.length} parts, ${bad} not OK` : "no part yet");
  $("chart").setAttribute("aria-label", `Scores of the last ${mine.length} parts; ${bad} were not OK; WARN above ${figure(warn)}, NG above ${figure(ng)}`);
}

function band(pen, left, right, top, bottom, fill) {
  pen.fillStyle = fill;
  pen.fillRect(left, top, right - left, bottom - top);
}

function limit(pen, left, right, at, text, line, dash, ink, shift = 0) {
  pen.strokeStyle = line;
  pen.lineWidth = 2;
  pen.setLineDash(dash);
  pen.beginPath();
  pen.moveTo(left, at);
  pen.lineTo(right, at);
  pen.stroke();
  pen.setLineDash([]);
  pen.fillStyle = ink;
  pen.font = "600 12px system-ui, sans-serif";
  pen.textBaseline = "middle";
  pen.fillText(text, right + 6, at + shift);
}

function mark(pen, event, x, y) {
  const size = event.verdict === "OK" ? 2.6 : 5;
  pen.fillStyle = pen.strokeStyle = colourOf(event.verdict);
  pen.beginPath();
  if (event.verdict === "OK") pen.arc(x, y, size, 0, 7);
  else if (event.verdict === "WARN") polygon(pen, [[x, y - size], [x + size, y + size * 0.8], [x - size, y + size * 0.8]]);
  else if (event.verdict === "NG") polygon(pen, [[x, y - size], [x + size, y], [x, y + size], [x - size, y]]);
  else {
    pen.lineWidth = 2;
    pen.moveTo(x - 3, y - 3);
    pen.lineTo(x + 3, y + 3);
    pen.moveTo(x + 3, y - 3);
    pen.lineTo(x - 3, y + 3);
    pen.stroke();
    return;
  }
  pen.fill();
}

const cache = new Map();
function colourOf(verdict) {
  if (!cache.has(verdict)) cache.set(verdict, colour(verdict.toLowerCase()));
  return cache.get(verdict);
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => cache.clear());

function polygon(pen, points) {
  points.forEach(([x, y], index) => (index ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.closePath();
}
