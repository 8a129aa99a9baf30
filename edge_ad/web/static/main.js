// The page: one stream of states in, every view brought up to date from it.

import { acknowledge, setupAlarms, showAlarms } from "./alarms.js";
import { showBars } from "./bars.js";
import { addEvents, drawChart } from "./chart.js";
import { setUser } from "./ask.js";
import { setupChallenge, showChallenge } from "./challenge.js";
import { $, clock, put, span } from "./dom.js";
import { eventsState, loadEvents, refreshEvents, setMark, setupEvents, step } from "./events.js";
import { loadActions, showHealth } from "./health.js";
import { showHours } from "./hours.js";
import { setupKeys, setupTabs } from "./keys.js";
import { lampLost, lampWaiting, showLamp } from "./lamp.js";
import { askPause, setupPause, showPause } from "./pause.js";
import { nextCamera, selected, setupPicture, showPicture, toggleHeat } from "./picture.js";
import { setupProduct, showProduct } from "./product.js";
import { connect } from "./stream.js";
import { loadThresholds, setupThresholds, thresholdsState } from "./thresholds.js";
import { loadUsers, setupUsers, showUsers } from "./users.js";

let state = null;
let counted = 0;
let link = "waiting";
let tab = "line";
let go = () => {};

function onState(found) {
  const restarted = state === null || found.count < counted || found.about.started !== state.about.started;
  addEvents(found.events, restarted);
  counted = found.count;
  state = found;
  put($("bundle"), found.about.name ? `${found.about.name} · ${found.about.backend} ${found.about.precision}` : "");
  $("logout").hidden = !found.login;
  setUser(found.user);
  put($("user"), found.user ? `${found.user} (${found.role})` : "");
  showUsers(found, tab === "health");
  eventsState(found);
  thresholdsState(found);
  if (found.run && link === "live") show(found);
}

function show(found) {
  showLamp(found.run);
  showAlarms(found);
  showPause(found);
  showChallenge(found);
  showProduct(found);
  if (tab === "line") {
    showPicture(found);
    showBars(found.run, found.about, selected());
    drawChart(found.run, selected());
  } else if (tab === "health") showHealth(found);
}

function onLink(next, why, since) {
  if (next === "record" && link !== "record" && tab === "line") go(1);
  link = next;
  document.body.dataset.link = next;
  const stale = $("stale");
  stale.hidden = next !== "lost";
  if (next === "lost") {
    put(stale, `${why} since ${clock(since)} (${span(Date.now() / 1000 - since)}). What you see is old.`);
    lampLost(why, since);
    $("acknowledge").disabled = true;
    $("pause").disabled = $("product").disabled = true;
  } else if (next === "starting") lampWaiting("the inspector warms up");
  else if (next === "record") lampWaiting("a record is shown; no inspector is connected");
  put($("pulse-text"), { live: "live", lost: "no data", starting: "starting", record: "record only", waiting: "connecting" }[next]);
}

function large() {
  const on = document.body.classList.toggle("large");
  $("big").setAttribute("aria-pressed", String(on));
  put($("big"), on ? "Close" : "Large");
}

setupPicture();
setupAlarms();
setupPause();
setupChallenge();
setupProduct();
setupEvents();
setupThresholds();
setupUsers();
$("big").addEventListener("click", large);
go = setupTabs((name) => {
  tab = name;
  if (name === "events") loadEvents();
  if (name === "thresholds") loadThresholds();
  if (name === "line") showHours();
  if (name === "health") loadActions(), loadUsers();
  if (state?.run && link === "live") show(state);
});
setupKeys({
  1: () => go(0), 2: () => go(1), 3: () => go(2), 4: () => go(3), 5: () => go(4),
  l: large, h: toggleHeat, a: acknowledge, p: askPause, c: () => nextCamera(state?.run),
  j: () => step(1), k: () => step(-1), g: () => setMark("good"), b: () => setMark("bad"), u: () => setMark(null),
});
connect({ onState, onLink });
setInterval(() => tab === "line" && !document.hidden && showHours(), 30000);
setInterval(() => !document.hidden && link !== "lost" && refreshEvents(), 5000);
addEventListener("resize", () => state?.run && tab === "line" && drawChart(state.run, selected(), true));
