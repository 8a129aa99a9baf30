// Tabs and shortcuts. Single keys can be turned off, and never act while somebody types.

import { $ } from "./dom.js";

const TABS = ["line", "events", "thresholds", "challenge", "health"];

export function setupTabs(onTab) {
  const show = (name, focus) => {
    for (const one of TABS) {
      const tab = $(`tab-${one}`);
      tab.setAttribute("aria-selected", String(one === name));
      tab.tabIndex = one === name ? 0 : -1;
      $(`panel-${one}`).hidden = one !== name;
    }
    document.body.dataset.tab = name;
    if (focus) $(`tab-${name}`).focus();
    history.replaceState(null, "", `#${name}`);
    onTab(name);
  };
  for (const [place, name] of TABS.entries()) {
    $(`tab-${name}`).addEventListener("click", () => show(name));
    $(`tab-${name}`).addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (by) show(TABS[(place + by + TABS.length) % TABS.length], true);
    });
  }
  show(TABS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "line");
  return (place) => show(TABS[place], true);
}

export function setupKeys(actions) {
  const box = $("keys-on");
  box.checked = localStorage.getItem("keys") !== "off";
  box.addEventListener("change", () => localStorage.setItem("keys", box.checked ? "on" : "off"));
  $("help-button").addEventListener("click", () => $("help").showModal());
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && document.body.classList.contains("large")) actions.l();
    const typing = event.target.closest("input:not([type=checkbox], [type=range]), select, textarea, dialog");
    if (!box.checked || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "?") $("help").showModal();
    else if (actions[event.key.toLowerCase()]) actions[event.key.toLowerCase()]();
    else return;
    event.preventDefault();
  });
}
