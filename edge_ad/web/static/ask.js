// A dialog that asks for a name and a reason and sends them to the run. Its elements begin with one word: pause-yes, pause-by, ...

import { $, note, put, request } from "./dom.js";

let user = null;

// Whoever is logged in is not asked for a name.
export function setUser(name) {
  user = name;
}

export function setupAsk(word, address) {
  const part = (name) => $(`${word}-${name}`);
  part("no").addEventListener("click", () => {
    part("dialog").close();
    part("no").blur(); // or the next key would still be taken for typing in the dialog
  });
  part("dialog").addEventListener("close", () => part("dialog").returnValue === "yes" && send(part, address()));
}

export function openAsk(word, { title, text, yes, reasonNeeded }) {
  const part = (name) => $(`${word}-${name}`);
  put(part("title"), title);
  put(part("ask"), text);
  put(part("yes"), yes);
  part("reason").required = reasonNeeded;
  part("reason").value = "";
  part("by").value = user ?? localStorage.getItem("name") ?? "";
  part("by").closest("label").hidden = user !== null;
  part("dialog").returnValue = "no";
  part("dialog").showModal();
}

async function send(part, address) {
  const by = part("by").value.trim();
  if (user === null) localStorage.setItem("name", by);
  try {
    note((await request(address, { by, reason: part("reason").value.trim() })).told);
  } catch (error) {
    note(`Refused: ${error.message}`);
  }
}
