// The product that is judged, and a list that chooses another one.

import { $, el, may, note, put, request } from "./dom.js";

const WORDS = { active: "", ready: "", parked: " (parked)", changing: " (changing)", fault: " (fault)" };
let shown = "";

export function setupProduct() {
  $("product").addEventListener("change", choose);
}

export function showProduct(state) {
  const found = state.run.products;
  $("product-field").hidden = !found;
  if (!found) return;
  const list = $("product");
  list.disabled = !may(state, "operate") || found.state === "changing";
  const rows = JSON.stringify(found.products.map((row) => [row.name, row.state])) + found.product;
  put($("product-told"), found.reason || "");
  if (rows === shown || document.activeElement === list && found.state !== "active") return;
  shown = rows;
  const none = found.product ? [] : [el("option", { value: "" }, "none")];
  list.replaceChildren(...none, ...found.products.map((row) => el("option", { value: row.name }, `${row.name}${WORDS[row.state] || ""}`)));
  list.value = found.product || "";
}

async function choose() {
  const name = $("product").value;
  if (!name) return;
  try {
    note((await request("/api/product", { name, by: localStorage.getItem("name") || "" })).told);
  } catch (error) {
    shown = "";
    note(`Refused: ${error.message}`);
  }
}
