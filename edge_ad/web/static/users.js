// The users of the dashboard, for an admin: a table, and one dialog that adds, changes and removes.

import { $, el, may, note, put, request, table } from "./dom.js";
import { loadActions } from "./health.js";

const FIELDS = ["name", "role", "password", "again"];
const WORDS = {
  add: { fields: FIELDS, yes: "Add", title: () => "Add a user", text: "An operator marks, pauses and chooses the product; an engineer changes how parts are judged too; an admin manages users too." },
  role: { fields: ["role"], yes: "Change", title: (name) => `Another role for ${name}`, text: "Ends the sessions of this user." },
  password: { fields: ["password", "again"], yes: "Change", title: (name) => `Another password for ${name}`, text: "Ends the sessions of this user." },
  remove: { fields: [], yes: "Remove", title: (name) => `Remove ${name}?`, text: "Ends the sessions of this user. What was done by that name stays in the audit trail." },
};
let action = "add";
let chosen = null;
let own = null;

export function setupUsers() {
  $("users-add").addEventListener("click", () => open("add", null));
  $("users-no").addEventListener("click", () => $("users-dialog").close());
  $("users-form").addEventListener("submit", send);
  $("users-dialog").addEventListener("close", () => ($("users-password").value = $("users-again").value = ""));
}

// The card is there for those alone who may use it.
export function showUsers(state, open) {
  const hidden = !may(state, "users");
  own = state.user;
  const appears = $("users-card").hidden && !hidden;
  $("users-card").hidden = hidden;
  if (appears && open) loadUsers();
}

export async function loadUsers() {
  if ($("users-card").hidden) return;
  try {
    const users = await request("/api/users");
    put($("users-told"), `${users.length} may log in`);
    table($("users"), [["Name"], ["Role"], ["Change"]], users.map(({ name, role }) => [name, role, el("span", { class: "pair" },
      name === own ? null : button("role", "Role …", name, role), button("password", "Password …", name, role),
      name === own ? null : button("remove", "Remove …", name, role))]));
  } catch (error) {
    put($("users-told"), error.message);
  }
}

const button = (what, text, name, role) => el("button", { "aria-label": `${text} of ${name}`, onclick: () => open(what, { name, role }) }, text);

function open(what, user) {
  action = what;
  chosen = user?.name ?? null;
  const { fields, yes, title, text } = WORDS[what];
  put($("users-dialog-title"), title(chosen));
  put($("users-ask"), text);
  put($("users-yes"), yes);
  for (const field of FIELDS) {
    const input = $(`users-${field}`);
    input.closest("label").hidden = input.disabled = !fields.includes(field);
    input.value = field === "role" ? user?.role ?? "operator" : "";
  }
  $("users-wrong").hidden = true;
  $("users-dialog").showModal();
}

async function send(event) {
  event.preventDefault();
  const [typed, role, password, again] = FIELDS.map((field) => $(`users-${field}`).value);
  if (!$("users-again").disabled && password !== again) return wrong("The two passwords differ.");
  const name = chosen ?? typed.trim();
  const [path, body] = {
    add: ["/api/users", { name, role, password }], role: ["/api/users/role", { name, role }],
    password: ["/api/users/password", { name, password }], remove: ["/api/users/remove", { name }],
  }[action];
  $("users-yes").disabled = true;
  try {
    const answer = await request(path, body);
    $("users-dialog").close();
    note(answer.told);
    loadUsers();
    loadActions();
  } catch (error) {
    wrong(error.message);
  } finally {
    $("users-yes").disabled = false;
  }
}

function wrong(text) {
  $("users-wrong").hidden = false;
  put($("users-wrong"), text);
}
